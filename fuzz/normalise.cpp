// Counts of any layout to nanovolts, and those to a model's input, which is finite and within its limits.
#include "../kernels/normalise.h"

#include <cmath>
#include <numeric>

#include "../kernels/sample.h"
#include "input.h"

static double gain(Input& input) {
    return std::ldexp(1.0 + input.take<uint8_t>() / 256.0, static_cast<int>(input.between(-30, 30)));
}

template <class Count>
static std::vector<int32_t> nanovolts(Input& input) {
    const int64_t n_channels = input.between(1, 16), invalid = input.take<int32_t>(), is_planar = input.between(0, 1);
    const double zero = input.take<int32_t>();
    const ecg::Mix mix{{input.between(0, n_channels - 1), input.between(0, n_channels - 1)},
                       {gain(input), input.between(0, 1) ? -gain(input) : 0.0}, {zero, -zero}};
    const auto n = static_cast<int64_t>(input.n / sizeof(Count)) / n_channels;
    if (n == 0) return {};
    std::vector<Count> stored(static_cast<size_t>(n * n_channels)), scratch;
    std::memcpy(stored.data(), input.data, stored.size() * sizeof(Count));
    ecg::Counts<Count> counts{stored.data(), n, is_planar ? n : 1, is_planar ? 1 : n_channels};
    if (!is_planar) counts = ecg::planar(counts, n_channels, scratch);
    std::vector<int32_t> nv(static_cast<size_t>(n));
    const int64_t n_missing = ecg::lead_nanovolts(counts, mix, invalid, nv.data());
    check(n_missing == std::count(nv.begin(), nv.end(), ecg::kInvalid));
    if constexpr (sizeof(Count) == 2) {
        std::vector<uint16_t> sums(static_cast<size_t>(n_channels));
        ecg::interleaved_sums(stored.data(), n, n_channels, sums.data());
    }
    return nv;
}

FUZZ(input) {
    const int64_t a = input.between(1, 64), b = input.between(1, 64);
    const int64_t up = a / std::gcd(a, b), down = b / std::gcd(a, b);
    const int64_t half = up == down ? 0 : 10 * std::max(up, down), n_taps = (2 * half + up) / up;
    const auto samples = input.between(1, 600);
    const bool is_narrow = input.between(0, 1);
    const std::vector<int32_t> nv = is_narrow ? nanovolts<int16_t>(input) : nanovolts<int32_t>(input);
    if (nv.empty()) return;
    const std::vector<float> taps(static_cast<size_t>(up * n_taps), 1.0f / static_cast<float>(n_taps));
    const ecg::Resampler resampler(up, down, half, n_taps, taps);
    std::vector<float> out(static_cast<size_t>(samples));
    const auto n = static_cast<int64_t>(nv.size());
    const float offset_nv = ecg::mean(nv.data(), input.between(1, n));
    ecg::model_inputs(nv.data(), n, resampler, {{offset_nv, 5e-6f}}, 20, samples, out.data());
    for (const float x : out) check(x >= -20 && x <= 20);
}
