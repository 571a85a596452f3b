// Measures of any eight leads at any rate, which are finite.
#include "../kernels/quality.h"

#include <cmath>

#include "input.h"

FUZZ(input) {
    constexpr double kRatesHz[] = {1, 50, 77.7, 100, 125, 249.9, 250, 360, 499, 500, 600, 977, 1000, 2000, 8000, 1e5};
    const double fs_hz = kRatesHz[input.take<uint8_t>() % std::size(kRatesHz)];
    const bool is_narrow = input.take<uint8_t>() % 2;
    const size_t n = input.n / (is_narrow ? 1 : 4) / ecg::kQualityLeads;
    if (n == 0) return;
    std::vector<int32_t> nv(n * ecg::kQualityLeads);
    for (int32_t& sample : nv) sample = is_narrow ? input.take<int8_t>() * 1000 : input.take<int32_t>();
    float measures[ecg::kMeasures * ecg::kQualityLeads];
    ecg::lead_measures(nv.data(), static_cast<int64_t>(n), fs_hz, measures);
    for (const float measure : measures) check(std::isfinite(measure));
    const float residual =
        ecg::limb_residual(nv.data(), nv.data() + n, nv.data() + 2 * n, static_cast<int64_t>(n), fs_hz, -0.5f, 1.0f);
    check(std::isfinite(residual) && residual >= 0);
}
