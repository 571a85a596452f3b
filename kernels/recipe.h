// How the counts of one record become the input of one model: what a CUDA thread, or a host loop, has to know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "normalise.h"
#include "sample.h"

namespace ecg {

// Where a record's samples lie in its payload, and between which rates they are resampled. Strides count samples.
struct Layout {
    int64_t n_samples;
    int64_t channel_stride;
    int64_t time_stride;
    int64_t is_wide;  // whether counts are int32 rather than int16
    int64_t invalid;  // the count that marks a missing sample; any value outside the counts' range: none
    int64_t up;
    int64_t down;
    int64_t half;
    int64_t n_taps;
};

struct Lead {
    Mix mix;
    double offset_nv, per_nv;  // floats

    ECG_HD Scale scale() const { return {static_cast<float>(offset_nv), static_cast<float>(per_nv)}; }
};

// One record and one model. A payload is read in halves of two bytes, lower first: int32 counts need not be aligned.
struct Job {
    Layout layout;
    const uint16_t* payload;
    const float* taps;  // (phase, tap)
    const Lead* leads;
    float* out;  // (lead, time)
};

// Any lead's nanovolts, one at a time.
struct LeadSamples {
    const Job& job;
    const Mix& mix;

    template <class Count>
    ECG_HD int32_t at(int64_t t) const {
        const Count first = count<Count>(mix.channel[0], t);
        if (mix.nv_per_count[1] == 0) {
            return nanovolts(first, mix.nv_per_count[0], mix.zero_counts[0], job.layout.invalid);
        }
        return nanovolts(first, count<Count>(mix.channel[1], t), mix, job.layout.invalid);
    }

    template <class Count>
    ECG_HD Count count(int64_t channel, int64_t t) const {
        const int64_t i = channel * job.layout.channel_stride + t * job.layout.time_stride;
        if (sizeof(Count) == 2) return static_cast<Count>(job.payload[i]);
        const uint32_t low = job.payload[2 * i], high = job.payload[2 * i + 1];
        return static_cast<Count>(low | high << 16);
    }

    ECG_HD int32_t operator[](int64_t t) const { return job.layout.is_wide ? at<int32_t>(t) : at<int16_t>(t); }
};

constexpr int64_t kThreads = 256;  // of a block

// Blocks of threads for so many inputs; the last one is seldom full.
ECG_HD int64_t n_blocks(int64_t n_inputs) { return (n_inputs + kThreads - 1) / kThreads; }

// The i-th of all inputs (record, lead, time), which is what thread i of a launch writes; none beyond the last.
ECG_HD void write_input(const Job* jobs, int64_t n_jobs, int64_t n_leads, int64_t samples, float clip, int64_t i) {
    const int64_t n = n_leads * samples;
    if (i >= n_jobs * n) return;
    const Job& job = jobs[i / n];
    const int64_t at = i % n;
    const Lead& lead = job.leads[at / samples];
    const Layout& layout = job.layout;
    job.out[at] = model_input(LeadSamples{job, lead.mix}, layout.n_samples, at % samples, layout.up, layout.down,
                              layout.half, job.taps, layout.n_taps, lead.scale(), clip);
}

// What Python writes, byte for byte: a Layout, and a Lead for every row of the model's input.
struct Recipe {
    // Of as many leads as there is room for; `bytes` need not be aligned.
    Recipe(const void* bytes, size_t n_bytes);

    // Whether all of the bytes were used, and nothing outside a payload of so many int16 and so many taps is reached.
    bool is_sound(int64_t n_halves, int64_t n_taps) const;

    Layout layout;
    std::vector<Lead> leads;
    bool is_whole;
};

// Resamplers made before, for several threads at once: making one costs more than using it.
class Resamplers {
public:
    std::shared_ptr<const Resampler> of(const Layout& layout, const float* taps);

private:
    std::mutex mutex_;
    std::vector<std::shared_ptr<const Resampler>> made_;  // the one used last at the end
};

// What write_input() writes for one record, by vectors: the host's face. The order of the sums differs.
void write_record(const Recipe& recipe, const uint16_t* payload, const Resampler& resampler, float clip,
                  int64_t samples, float* out);

}  // namespace ecg
