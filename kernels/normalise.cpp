#include "normalise.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "clones.h"
#include "sample.h"

namespace ecg {
namespace {

template <class Count>
void copy_tile(const Counts<Count>& counts, int64_t c0, int64_t n_channels, int64_t t0, int64_t n, Count* out) {
    for (int64_t c = c0; c < c0 + n_channels; ++c) {
        for (int64_t t = t0; t < t0 + n; ++t) {
            out[c * counts.n_samples + t] = counts.data[c * counts.channel_stride + t * counts.time_stride];
        }
    }
}

#if defined(__x86_64__)
// Eight frames of eight channels: an 8 × 8 transpose of int16.
void transpose_tile(const int16_t* frames, int64_t time_stride, int16_t* out, int64_t out_stride) {
    __m128i a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(frames + i * time_stride));
    for (int i = 0; i < 4; ++i) {
        b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]);
        a[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
    }
    for (int i = 0; i < 4; ++i) {
        b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 8; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * out_stride), b[i]);
}
#endif

template <class Count>
Counts<Count> planar_copy(const Counts<Count>& counts, int64_t n_channels, std::vector<Count>& scratch) {
    const int64_t n = counts.n_samples;
    scratch.resize(static_cast<size_t>(n_channels * n));
    int64_t t = 0;
#if defined(__x86_64__)
    if constexpr (sizeof(Count) == 2) {
        if (counts.channel_stride == 1 && n_channels >= 8) {
            for (; t + 8 <= n; t += 8) {
                for (int64_t c = 0;; c = std::min(c + 8, n_channels - 8)) {  // the last tile overlaps the one before
                    transpose_tile(counts.data + t * counts.time_stride + c, counts.time_stride,
                                   scratch.data() + c * n + t, n);
                    if (c + 8 == n_channels) break;
                }
            }
        }
    }
#endif
    copy_tile(counts, 0, n_channels, t, n - t, scratch.data());
    return {scratch.data(), n, n, 1};
}

// A count equal to `mark` is missing; a mark that no Count can equal marks nothing.
template <class Count, class Wide>
inline int32_t one(Count count, double nv_per_count, double zero, Wide mark) {
    return count == mark ? kInvalid : saturate_nv((count - zero) * nv_per_count);
}

ECG_CLONES void one_channel(const int16_t* counts, int64_t n, double nv_per_count, double zero, int32_t mark, int32_t* out) {
    const bool fits = std::abs(zero) < 1e9 && std::abs(nv_per_count) * (32768 + std::abs(zero)) < 2147483647.0;
    if (fits && nv_per_count == std::trunc(nv_per_count) && zero == std::trunc(zero)) {
        // Whole nanovolts a count, as most devices have: the same numbers in a fraction of the time.
        const auto gain = static_cast<int32_t>(nv_per_count), offset = static_cast<int32_t>(zero);
        for (int64_t t = 0; t < n; ++t) out[t] = counts[t] == mark ? kInvalid : (counts[t] - offset) * gain;
        return;
    }
    for (int64_t t = 0; t < n; ++t) out[t] = one(counts[t], nv_per_count, zero, mark);
}

ECG_CLONES void one_channel(const int32_t* counts, int64_t n, double nv_per_count, double zero, int64_t mark, int32_t* out) {
    for (int64_t t = 0; t < n; ++t) out[t] = one(counts[t], nv_per_count, zero, mark);
}

template <class Count>
void nanovolts(const Counts<Count>& counts, const Mix& mix, int64_t invalid, int32_t* out) {
    const int64_t n = counts.n_samples;
    const Count* first = counts.data + mix.channel[0] * counts.channel_stride;
    if (mix.nv_per_count[1] == 0) {
        using Wide = std::conditional_t<sizeof(Count) == 2, int32_t, int64_t>;
        const auto mark = static_cast<Wide>(std::min<int64_t>(invalid, std::numeric_limits<Wide>::max()));
        one_channel(first, n, mix.nv_per_count[0], mix.zero_counts[0], mark, out);
        return;
    }
    const Count* second = counts.data + mix.channel[1] * counts.channel_stride;
    for (int64_t t = 0; t < n; ++t) {
        const bool is_missing = first[t] == invalid || second[t] == invalid;
        out[t] = is_missing ? kInvalid
                            : saturate_nv((first[t] - mix.zero_counts[0]) * mix.nv_per_count[0] +
                                          (second[t] - mix.zero_counts[1]) * mix.nv_per_count[1]);
    }
}

typedef float Vec __attribute__((vector_size(64), aligned(4)));
constexpr int64_t kVec = 16;

// The lead in scaled units, extended at both ends by its edge samples and split by index modulo `down`:
// parts + r * stride holds the samples down*j + r - before. With it, outputs of one phase are unit-stride sums.
ECG_CLONES void split(const int32_t* nv, int64_t n, int64_t before, int64_t down, int64_t stride, float per_nv,
                      float* parts) {
    for (int64_t r = 0; r < down; ++r, parts += stride) {
        const int64_t first = (std::max<int64_t>(before - r, 0) + down - 1) / down;  // the first j inside the lead
        const int64_t end = std::min(stride, (n + before - r + down - 1) / down);
        std::fill(parts, parts + std::min(first, stride), static_cast<float>(nv[0]) * per_nv);
        const int64_t shift = r - before;
        if (down == 2) {
            for (int64_t j = first; j < end; ++j) parts[j] = static_cast<float>(nv[2 * j + shift]) * per_nv;
        } else {
            for (int64_t j = first; j < end; ++j) parts[j] = static_cast<float>(nv[down * j + shift]) * per_nv;
        }
        std::fill(parts + std::max(first, end), parts + stride, static_cast<float>(nv[n - 1]) * per_nv);
    }
}

// A tap that is not 0, and where in `parts` the inputs lie that it weighs, from output 0 of its phase on.
struct Tap {
    int64_t at;
    float weight;
};

// n outputs (a multiple of kVec) of one phase: out[j] = sum over the taps of weight * parts[at + j].
ECG_CLONES void one_phase(const float* parts, const Tap* taps, size_t n_taps, int64_t n, float* out) {
    int64_t j = 0;
    for (; j + 4 * kVec <= n; j += 4 * kVec) {
        Vec a{}, b{}, c{}, d{};
        for (size_t k = 0; k < n_taps; ++k) {
            const Vec* x = reinterpret_cast<const Vec*>(parts + taps[k].at + j);
            a += taps[k].weight * x[0];
            b += taps[k].weight * x[1];
            c += taps[k].weight * x[2];
            d += taps[k].weight * x[3];
        }
        Vec* to = reinterpret_cast<Vec*>(out + j);
        to[0] = a, to[1] = b, to[2] = c, to[3] = d;
    }
    for (; j < n; j += kVec) {
        Vec a{};
        for (size_t k = 0; k < n_taps; ++k) {
            a += taps[k].weight * *reinterpret_cast<const Vec*>(parts + taps[k].at + j);
        }
        *reinterpret_cast<Vec*>(out + j) = a;
    }
}

// Every `up`-th output from out[0] on.
ECG_CLONES void store(const float* phase, int64_t n, int64_t up, float clip, float* out) {
    if (up == 1) {
        for (int64_t j = 0; j < n; ++j) out[j] = limit(phase[j], clip);
    } else {
        for (int64_t j = 0; j < n; ++j) out[j * up] = limit(phase[j], clip);
    }
}

}  // namespace

Counts<int16_t> planar(const Counts<int16_t>& counts, int64_t n_channels, std::vector<int16_t>& scratch) {
    return planar_copy(counts, n_channels, scratch);
}

Counts<int32_t> planar(const Counts<int32_t>& counts, int64_t n_channels, std::vector<int32_t>& scratch) {
    return planar_copy(counts, n_channels, scratch);
}

void lead_nanovolts(const Counts<int16_t>& counts, const Mix& mix, int64_t invalid, int32_t* out) {
    nanovolts(counts, mix, invalid, out);
}

void lead_nanovolts(const Counts<int32_t>& counts, const Mix& mix, int64_t invalid, int32_t* out) {
    nanovolts(counts, mix, invalid, out);
}

ECG_CLONES void lead_extent(const int32_t* nv, int64_t n, int32_t* extent) {
    int32_t low = INT32_MAX, high = kInvalid, n_missing = 0;
    for (int64_t t = 0; t < n; ++t) {
        const auto less_one = static_cast<int32_t>(static_cast<uint32_t>(nv[t]) - 1u);  // wraps kInvalid to the top
        low = less_one < low ? less_one : low;
        high = nv[t] > high ? nv[t] : high;
        n_missing += nv[t] == kInvalid;
    }
    extent[0] = static_cast<int32_t>(static_cast<uint32_t>(low) + 1u), extent[1] = high, extent[2] = n_missing;
}

void lead_model_input(const int32_t* nv, int64_t n, const Resampler& r, float per_nv, float clip, int64_t samples,
                      float* out) {
    const int64_t made = std::min(samples, resampled_length(n, r.up, r.down));
    std::fill(out + made, out + samples, 0.0f);
    if (r.up == r.down) {
        for (int64_t t = 0; t < made; ++t) out[t] = limit(static_cast<float>(nv[t]) * per_nv, clip);
        return;
    }
    const int64_t before = -position(0, r.up, r.down, r.half, r.n_taps).first;
    const int64_t per_phase = (made + r.up - 1) / r.up;
    const int64_t padded = (per_phase + kVec - 1) / kVec * kVec;  // whole vectors; what lies beyond is not stored
    const int64_t total = before + position(r.up - 1, r.up, r.down, r.half, r.n_taps).first + r.n_taps +
                          padded * r.down + r.down;
    const int64_t stride = total / r.down + 1;

    thread_local std::vector<float> parts, phase;
    thread_local std::vector<Tap> taps;
    parts.resize(static_cast<size_t>(stride * r.down + kVec));
    phase.resize(static_cast<size_t>(padded));
    split(nv, n, before, r.down, stride, per_nv, parts.data());

    for (int64_t t = 0; t < std::min(r.up, made); ++t) {
        const Position at = position(t, r.up, r.down, r.half, r.n_taps);
        taps.clear();
        for (int64_t k = 0; k < r.n_taps; ++k) {  // half of a halving filter's taps are 0
            const float weight = r.taps[at.phase * r.n_taps + k];
            const int64_t i = before + at.first + k;
            if (weight != 0) taps.push_back({i % r.down * stride + i / r.down, weight});
        }
        one_phase(parts.data(), taps.data(), taps.size(), padded, phase.data());
        store(phase.data(), (made - t + r.up - 1) / r.up, r.up, clip, out + t);
    }
}

ECG_CLONES void interleaved_sums(const int16_t* frames, int64_t n_frames, int64_t n_channels, uint16_t* sums) {
    constexpr int64_t kFrames = 32;  // lanes = kFrames * n_channels: whole vectors whatever n_channels is
    const int64_t lanes = kFrames * n_channels;
    thread_local std::vector<uint16_t> partial;
    partial.assign(static_cast<size_t>(lanes), 0);
    uint16_t* acc = partial.data();
    int64_t t = 0;
    for (; t + kFrames <= n_frames; t += kFrames) {
        const int16_t* block = frames + t * n_channels;
        for (int64_t i = 0; i < lanes; ++i) acc[i] = static_cast<uint16_t>(acc[i] + static_cast<uint16_t>(block[i]));
    }
    for (int64_t i = 0; i < (n_frames - t) * n_channels; ++i) {
        acc[i] = static_cast<uint16_t>(acc[i] + static_cast<uint16_t>(frames[t * n_channels + i]));
    }
    std::fill(sums, sums + n_channels, uint16_t{0});
    for (int64_t i = 0; i < lanes; ++i) sums[i % n_channels] = static_cast<uint16_t>(sums[i % n_channels] + acc[i]);
}

}  // namespace ecg
