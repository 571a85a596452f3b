// Counts -> nanovolts -> model input, whole leads at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "sample.h"

namespace ecg {

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

// One lead in nanovolts, of counts whose time stride is 1; how many samples are missing. `invalid` is the count that
// marks one (any value outside Count's range: none).
int64_t lead_nanovolts(const Counts<int16_t>& counts, const Mix& mix, int64_t invalid, int32_t* out);
int64_t lead_nanovolts(const Counts<int32_t>& counts, const Mix& mix, int64_t invalid, int32_t* out);

// The polyphase filter between two rates, and its taps in the order in which model_inputs() weighs with them.
struct Resampler {
    Resampler(int64_t up, int64_t down, int64_t half, int64_t n_taps, std::vector<float> taps);

    // A tap that is not 0: it weighs input down * (at + j) + part - before() for output j of its phase.
    struct Tap {
        int64_t part;
        int64_t at;
        float weight;
    };

    int64_t before() const;  // samples before a lead's first that the filter reaches
    int64_t reach() const;   // inputs from there on that the first outputs of all phases depend on

    int64_t up;
    int64_t down;
    int64_t half;
    int64_t n_taps;
    std::vector<float> taps;               // (phase, tap)
    std::vector<std::vector<Tap>> phases;  // by output modulo up
    bool has_runs;                         // whether taps of a phase mostly weigh samples next to each other in a part
};

// The mean of n > 0 samples.
float mean(const int32_t* nv, int64_t n);

// `samples` model inputs of every lead of (lead, n) in nV, each on its scale; zeros where the leads have ended.
// Equals model_input() for every t, but for the order of the sum.
void model_inputs(const int32_t* nv, int64_t n, const Resampler& r, const std::vector<Scale>& scales, float clip,
                  int64_t samples, float* out);

// Sum of every channel's counts modulo 2^16 (WFDB's checksum), for frames of n_channels interleaved samples.
void interleaved_sums(const int16_t* frames, int64_t n_frames, int64_t n_channels, uint16_t* sums);

}  // namespace ecg
