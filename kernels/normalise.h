// Counts -> nanovolts -> model input, whole leads at a time.
#pragma once

#include <cstdint>
#include <vector>

namespace ecg {

// A lead as a sum of at most two stored channels.
struct Mix {
    int64_t channel[2];
    double nv_per_count[2];  // 0 where there is no second channel
    double zero_counts[2];
};

// Samples of one record as they lie in memory; strides count samples.
template <class Count>
struct Counts {
    const Count* data;
    int64_t n_samples;
    int64_t channel_stride;
    int64_t time_stride;
};

// The same samples channel after channel in `scratch`, so that the loops after it run on vectors.
Counts<int16_t> planar(const Counts<int16_t>& counts, int64_t n_channels, std::vector<int16_t>& scratch);
Counts<int32_t> planar(const Counts<int32_t>& counts, int64_t n_channels, std::vector<int32_t>& scratch);

// One lead in nanovolts, of counts whose time stride is 1. `invalid` is the count that marks a missing sample (any value outside Count's range: none).
void lead_nanovolts(const Counts<int16_t>& counts, const Mix& mix, int64_t invalid, int32_t* out);
void lead_nanovolts(const Counts<int32_t>& counts, const Mix& mix, int64_t invalid, int32_t* out);

// Smallest and largest of the samples that are not kInvalid, and how many are.
void lead_extent(const int32_t* nv, int64_t n, int32_t* extent);

struct Resampler {
    int64_t up;
    int64_t down;
    int64_t half;
    int64_t n_taps;
    const float* taps;  // (phase, tap)
};

// `samples` model inputs of one lead; zeros where the lead has ended. Equals model_input() for every t.
void lead_model_input(const int32_t* nv, int64_t n, const Resampler& r, float per_nv, float clip, int64_t samples,
                      float* out);

// Sum of every channel's counts modulo 2^16 (WFDB's checksum), for frames of n_channels interleaved samples.
void interleaved_sums(const int16_t* frames, int64_t n_frames, int64_t n_channels, uint16_t* sums);

}  // namespace ecg
