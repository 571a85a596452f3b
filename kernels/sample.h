// One sample at a time: the arithmetic between a file's counts and a model's input.
//
// Host loops and CUDA threads call these same functions, so that what they compute, index arithmetic
// included, is written once. `ecgbatch/waveform.py` is the definition in NumPy that tests hold them to.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ECG_HD __host__ __device__ inline
#else
#define ECG_HD inline
#endif

namespace ecg {

// "No sample here", in nanovolts; `record.INVALID`.
constexpr int32_t kInvalid = INT32_MIN;

// Whole nanovolts, short of kInvalid.
ECG_HD int32_t saturate_nv(double nv) {
    nv = nv < -2147483647.0 ? -2147483647.0 : nv;
    nv = nv > 2147483647.0 ? 2147483647.0 : nv;
    return static_cast<int32_t>(nearbyint(nv));
}

// A lead as a sum of at most two stored channels.
struct Mix {
    int64_t channel[2];
    double nv_per_count[2];  // 0 where there is no second channel
    double zero_counts[2];
};

// A count equal to `mark` is missing; a mark that no Count can equal marks nothing.
template <class Count, class Wide>
ECG_HD int32_t nanovolts(Count count, double nv_per_count, double zero, Wide mark) {
    return count == mark ? kInvalid : saturate_nv((count - zero) * nv_per_count);
}

template <class Count, class Wide>
ECG_HD int32_t nanovolts(Count first, Count second, const Mix& mix, Wide mark) {
    return first == mark || second == mark ? kInvalid
                                           : saturate_nv((first - mix.zero_counts[0]) * mix.nv_per_count[0] +
                                                         (second - mix.zero_counts[1]) * mix.nv_per_count[1]);
}

// Where output sample t of a polyphase resampler lies: a row of the tap bank, and the first input it weighs.
struct Position {
    int64_t phase;
    int64_t first;
};

ECG_HD Position position(int64_t t, int64_t up, int64_t down, int64_t half, int64_t n_taps) {
    const int64_t centre = t * down + half;
    return {centre % up, centre / up - (n_taps - 1)};
}

// The input goes on for ever beyond its ends with its first and last sample.
ECG_HD int64_t inside(int64_t i, int64_t n) { return i < 0 ? 0 : (i >= n ? n - 1 : i); }

// Samples that a resampled lead of n inputs has.
ECG_HD int64_t resampled_length(int64_t n, int64_t up, int64_t down) { return (n * up + down - 1) / down; }

ECG_HD float limit(float x, float clip) {
    x = x < -clip ? -clip : x;
    return x > clip ? clip : x;
}

// What is taken off a lead's nanovolts, and what the rest is multiplied by: 1e-6 / scale_mv.
struct Scale {
    float offset_nv;
    float per_nv;
};

ECG_HD float scaled(int32_t nv, Scale scale) { return (static_cast<float>(nv) - scale.offset_nv) * scale.per_nv; }

// Output sample t of one lead, ready for the model: of nv[0] to nv[n - 1], whatever they are computed from.
template <class Nanovolts>
ECG_HD float model_input(const Nanovolts& nv, int64_t n, int64_t t, int64_t up, int64_t down, int64_t half,
                         const float* taps, int64_t n_taps, Scale scale, float clip) {
    if (t >= resampled_length(n, up, down)) return 0.0f;  // padding at the end of a short record
    const Position at = position(t, up, down, half, n_taps);
    const float* row = taps + at.phase * n_taps;
    float sum = 0.0f;
    for (int64_t k = 0; k < n_taps; ++k) {
        sum += row[k] * scaled(nv[inside(at.first + k, n)], scale);
    }
    return limit(sum, clip);
}

}  // namespace ecg
