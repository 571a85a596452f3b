#include "quality.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "clones.h"
#include "sample.h"

namespace ecg {
namespace {

constexpr int64_t kBlocksPerSegment = 10;
constexpr int64_t kBlocksPerHalf = 25;
constexpr int64_t kBlocksPerWindow = 100;
constexpr double kRateHz = 250;  // recordings are averaged down to no less
constexpr double kLinesHz[] = {50, 60};
constexpr float kFloorUv = 10;
constexpr float kLeastSpread = 1e-6f;
constexpr float kHuge = 3e38f;

// One sample of eight leads. Clang heeds `aligned` only as an attribute of the name.
using Vec __attribute__((aligned(4), may_alias)) = float __attribute__((vector_size(32)));
static_assert(sizeof(Vec) == kQualityLeads * sizeof(float) && alignof(Vec) == alignof(float));

class Series {
public:
    Vec* resized(int64_t n) {
        values_.resize(static_cast<size_t>(n * kQualityLeads));
        return reinterpret_cast<Vec*>(values_.data());
    }

private:
    std::vector<float> values_;
};

struct Scratch {
    Series samples, ranges, means, windows;
};

// How a record is cut into samples, blocks of 20 ms, segments of 0.2 s and windows of 2 s.
struct Grid {
    int64_t averaged;  // stored samples that make one
    double fs_hz;      // after averaging
    int64_t n;         // samples after averaging
    int64_t lag;       // 4 ms
    int64_t block;     // samples a block
    int64_t n_blocks;
    int64_t n_segments;
    int64_t n_windows;  // the last takes what is left over

    Grid(int64_t n_stored, double stored_hz)
        : averaged(std::clamp<int64_t>(static_cast<int64_t>(stored_hz / kRateHz), 1, n_stored)),
          fs_hz(stored_hz / static_cast<double>(averaged)),
          n(n_stored / averaged),
          lag(std::max<int64_t>(1, std::llround(0.004 * fs_hz))),
          block(std::clamp<int64_t>(std::llround(0.02 * fs_hz), 1, n)),
          n_blocks(n / block),
          n_segments(n_blocks / kBlocksPerSegment),
          n_windows(std::max<int64_t>(1, n_blocks / kBlocksPerWindow)) {}

    int64_t padded() const { return (n + 7) / 8 * 8; }
    int64_t first_block(int64_t window) const { return window == n_windows ? n_blocks : window * kBlocksPerWindow; }
    int64_t first_segment(int64_t window) const { return first_block(window) / kBlocksPerSegment; }
};

// The mains frequencies over one segment.
struct Lines {
    std::vector<float> turns;  // (time, 4): cosine and sine of each
    float gain[2];             // undoes averaging and differencing; 0 where the rate is too low

    Lines(const Grid& grid, double stored_hz) : turns(static_cast<size_t>(grid.block * kBlocksPerSegment * 4)) {
        for (size_t k = 0; k < 2; ++k) {
            const double turn = 2 * M_PI * kLinesHz[k] / grid.fs_hz, half = M_PI * kLinesHz[k] / stored_hz;
            for (size_t t = 0; t < turns.size() / 4; ++t) {
                turns[4 * t + 2 * k] = static_cast<float>(std::cos(turn * static_cast<double>(t)));
                turns[4 * t + 2 * k + 1] = static_cast<float>(std::sin(turn * static_cast<double>(t)));
            }
            const auto q = static_cast<double>(grid.averaged);
            const double averaged = std::sin(half * q) / (q * std::sin(half));
            const double bent = 1 - std::cos(turn * static_cast<double>(grid.lag));
            gain[k] = kLinesHz[k] < 0.45 * grid.fs_hz ? static_cast<float>(1 / (averaged * bent)) : 0.0f;
        }
    }
};

// In place; there are few.
void sort(float* values, int64_t n) { std::sort(values, values + n); }

}  // namespace

namespace any {
#include "quality_lanes.h"
}  // namespace any

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ECG_AVX2 1
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "quality_lanes.h"
}  // namespace avx2
#pragma GCC pop_options
#endif

namespace {

struct Range {
    int32_t low, high;
};

// Samples at the lowest or highest value; none where either is taken once, or where there is no other value.
ECG_CLONES int64_t at_extremes(const int32_t* x, int64_t n, Range extremes) {
    int32_t found = 0;
    for (int64_t t = 0; t < n; ++t) found += (x[t] == extremes.low) | (x[t] == extremes.high);
    return found > 2 && extremes.low < extremes.high ? found : 0;
}

// A missing sample takes the value before it, or the first one there is.
void fill_gaps(const int32_t* x, int64_t n, int32_t* out) {
    const int32_t* first = std::find_if(x, x + n, [](int32_t value) { return value != kInvalid; });
    int32_t last = first == x + n ? 0 : *first;
    for (int64_t t = 0; t < n; ++t) out[t] = last = x[t] == kInvalid ? last : x[t];
}

// Means of `averaged` samples each, in µV; the least and the largest sample.
ECG_CLONES Range average(const int32_t* x, int64_t n, int64_t averaged, float* out) {
    const float scale = 1e-3f / static_cast<float>(averaged);
    int32_t low = INT32_MAX, high = INT32_MIN;
    int64_t t = 0;
    if (averaged == 1) {
        for (; t < n; ++t) {
            low = std::min(low, x[t]);
            high = std::max(high, x[t]);
            out[t] = static_cast<float>(x[t]) * scale;
        }
    } else if (averaged == 2) {
        for (; t < n / 2; ++t) {
            const int32_t a = x[2 * t], b = x[2 * t + 1];
            low = std::min(low, std::min(a, b));
            high = std::max(high, std::max(a, b));
            out[t] = (static_cast<float>(a) + static_cast<float>(b)) * scale;
        }
    } else {
        for (; t < n / averaged; ++t) {
            float sum = 0;
            for (int64_t i = t * averaged; i < (t + 1) * averaged; ++i) {
                low = std::min(low, x[i]);
                high = std::max(high, x[i]);
                sum += static_cast<float>(x[i]);
            }
            out[t] = sum * scale;
        }
    }
    for (t *= averaged; t < n; ++t) {
        low = std::min(low, x[t]);
        high = std::max(high, x[t]);
    }
    return {low, high};
}

// The lines of one rate: a thread reads records of few.
const Lines& lines_of(const Grid& grid, double stored_hz) {
    thread_local Lines kept(grid, stored_hz);
    thread_local double hz = stored_hz;
    thread_local int64_t block = grid.block;
    if (hz != stored_hz || block != grid.block) kept = Lines(grid, stored_hz);
    hz = stored_hz;
    block = grid.block;
    return kept;
}

// Largest difference of a segment, in nV; 0 where a sample is missing.
ECG_CLONES float difference(const int32_t* one, const int32_t* two, const int32_t* lead, int64_t n, float a, float b) {
    float most = 0;
    int32_t least = INT32_MAX;
    for (int64_t t = 0; t < n; ++t) {
        least = std::min(least, std::min(lead[t], std::min(one[t], two[t])));
        const float expected = a * static_cast<float>(one[t]) + b * static_cast<float>(two[t]);
        most = std::max(most, std::abs(static_cast<float>(lead[t]) - expected));
    }
    return least == kInvalid ? 0 : most;
}

}  // namespace

void lead_measures(const int32_t* nv, int64_t n, double fs_hz, float* out) {
    const Grid grid(n, fs_hz);
    thread_local std::vector<int32_t> whole;
    thread_local std::vector<float> rows;
    thread_local Scratch scratch;
    rows.resize(static_cast<size_t>(kQualityLeads * grid.padded()));
    for (int64_t lead = 0; lead < kQualityLeads; ++lead, nv += n) {
        const int32_t* row = nv;
        float* means = rows.data() + lead * grid.padded();
        Range extremes = average(row, n, grid.averaged, means);
        if (extremes.low == kInvalid) {
            whole.resize(static_cast<size_t>(n));
            fill_gaps(row, n, whole.data());
            row = whole.data();
            extremes = average(row, n, grid.averaged, means);
        }
        const double range_nv = static_cast<double>(extremes.high) - static_cast<double>(extremes.low);
        out[kAmplitude * kQualityLeads + lead] = static_cast<float>(range_nv * 1e-3);
        const auto n_clipped = static_cast<float>(at_extremes(row, n, extremes));
        out[kClipped * kQualityLeads + lead] = n_clipped / static_cast<float>(n);
    }
#if defined(ECG_AVX2)
    static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx2) return avx2::measure(rows.data(), grid, lines_of(grid, fs_hz), scratch, out);
#endif
    any::measure(rows.data(), grid, lines_of(grid, fs_hz), scratch, out);
}

double Gate::logit(const float* measures, float* worst) const {
    double sum = intercept_;
    for (const Weight& weight : weights_) {
        float ranked[kQualityLeads];
        std::copy_n(measures, kQualityLeads, ranked);
        std::sort(ranked, ranked + kQualityLeads);
        const auto scaled = [&weight](double value) { return weight.is_logarithmic ? std::log10(1 + value) : value; };
        *worst = weight.worst_is_least ? ranked[0] : ranked[kQualityLeads - 1];
        sum += weight.worst * scaled(*worst++);
        sum += weight.middle * (scaled(ranked[3]) + scaled(ranked[4])) / 2;
        measures += kQualityLeads;
    }
    return sum;
}

float limb_residual(const int32_t* one, const int32_t* two, const int32_t* lead, int64_t n, double fs_hz, float a,
                    float b) {
    const int64_t length = std::min(std::max<int64_t>(16, std::llround(0.2 * fs_hz) / 16 * 16), n);  // whole vectors
    thread_local std::vector<float> found;
    found.clear();
    for (int64_t t = 0; t + length <= n; t += 2 * length) {
        found.push_back(difference(one + t, two + t, lead + t, length, a, b));
    }
    const auto at = found.begin() + static_cast<int64_t>(found.size() * 9 / 10);
    std::nth_element(found.begin(), at, found.end());
    return *at;
}

}  // namespace ecg
