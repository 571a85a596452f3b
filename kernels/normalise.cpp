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
// parts + r * stride holds the samples down*j + r. With it, outputs of one phase are unit-stride sums.
ECG_CLONES void split(const int32_t* nv, int64_t n, int64_t before, int64_t total, int64_t down, int64_t stride,
                      float per_nv, float* line, float* parts) {
    const int64_t middle = std::min(n, total - before);
    std::fill(line, line + before, static_cast<float>(nv[0]) * per_nv);
    for (int64_t i = 0; i < middle; ++i) line[before + i] = static_cast<float>(nv[i]) * per_nv;
    std::fill(line + before + middle, line + total, static_cast<float>(nv[inside(total - before, n)]) * per_nv);
    if (down == 2) {
        for (int64_t j = 0; 2 * j + 1 < total; ++j) {
            parts[j] = line[2 * j];
            parts[stride + j] = line[2 * j + 1];
        }
        return;
    }
    for (int64_t r = 0; r < down; ++r) {
        for (int64_t j = 0; j * down + r < total; ++j) parts[r * stride + j] = line[j * down + r];
    }
}

// n outputs (a multiple of kVec) of one phase: out[j] = sum over k of row[k] * x[offset + k + down*j].
ECG_CLONES void one_phase(const float* parts, int64_t stride, int64_t down, int64_t offset, const float* row,
                          int64_t n_taps, int64_t n, float* out) {
    int64_t j = 0;
    for (; j + 4 * kVec <= n; j += 4 * kVec) {
        Vec a{}, b{}, c{}, d{};
        int64_t r = offset % down;
        const float* x = parts + offset / down + j;
        for (int64_t k = 0; k < n_taps; ++k) {
            if (row[k] != 0) {  // half of a halving filter's taps are 0
                const Vec* at = reinterpret_cast<const Vec*>(x + r * stride);
                a += row[k] * at[0];
                b += row[k] * at[1];
                c += row[k] * at[2];
                d += row[k] * at[3];
            }
            if (++r == down) r = 0, ++x;
        }
        Vec* to = reinterpret_cast<Vec*>(out + j);
        to[0] = a, to[1] = b, to[2] = c, to[3] = d;
    }
    for (; j < n; j += kVec) {
        Vec a{};
        int64_t r = offset % down;
        const float* x = parts + offset / down + j;
        for (int64_t k = 0; k < n_taps; ++k) {
            a += row[k] * *reinterpret_cast<const Vec*>(x + r * stride);
            if (++r == down) r = 0, ++x;
        }
        *reinterpret_cast<Vec*>(out + j) = a;
    }
}

ECG_CLONES void clip_all(float* x, int64_t n, float clip) {
    for (int64_t i = 0; i < n; ++i) x[i] = limit(x[i], clip);
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

    thread_local std::vector<float> line, parts, phase_out;
    line.resize(static_cast<size_t>(total));
    parts.resize(static_cast<size_t>(stride * r.down + kVec));
    phase_out.resize(static_cast<size_t>(padded));
    split(nv, n, before, total, r.down, stride, per_nv, line.data(), parts.data());

    for (int64_t t = 0; t < std::min(r.up, made); ++t) {
        const Position at = position(t, r.up, r.down, r.half, r.n_taps);
        one_phase(parts.data(), stride, r.down, before + at.first, r.taps + at.phase * r.n_taps, r.n_taps, padded,
                  phase_out.data());
        if (r.up == 1) std::copy_n(phase_out.data(), made, out);
        else for (int64_t j = 0; t + j * r.up < made; ++j) out[t + j * r.up] = phase_out[static_cast<size_t>(j)];
    }
    clip_all(out, made, clip);
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
