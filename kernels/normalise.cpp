#include "normalise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "clones.h"

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
// Sixteen frames of eight channels: an 8 × 8 transpose of int16 in either half of the registers.
__attribute__((target("avx2"))) void transpose_tile(const int16_t* frames, int64_t time_stride, int16_t* out,
                                                    int64_t out_stride) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; ++i) {
        const int16_t* frame = frames + i * time_stride;
        const __m128i early = _mm_loadu_si128(reinterpret_cast<const __m128i*>(frame));
        const __m128i late = _mm_loadu_si128(reinterpret_cast<const __m128i*>(frame + 8 * time_stride));
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(early), late, 1);
    }
    const auto interleave = [](const __m256i* from, __m256i* to) __attribute__((target("avx2"))) {
        for (int i = 0; i < 4; ++i) {
            to[2 * i] = _mm256_unpacklo_epi16(from[i], from[i + 4]);
            to[2 * i + 1] = _mm256_unpackhi_epi16(from[i], from[i + 4]);
        }
    };
    interleave(a, b);
    interleave(b, a);
    interleave(a, b);
    for (int i = 0; i < 8; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * out_stride), b[i]);
}

// As many of the frames as make whole tiles; returns how many.
int64_t transpose(const Counts<int16_t>& frames, int64_t n_channels, int16_t* out) {
    if (!__builtin_cpu_supports("avx2")) return 0;
    int64_t t = 0;
    for (; t + 16 <= frames.n_samples; t += 16) {
        for (int64_t c = 0;; c = std::min(c + 8, n_channels - 8)) {  // the last tile overlaps the one before
            transpose_tile(frames.data + t * frames.time_stride + c, frames.time_stride, out + c * frames.n_samples + t,
                           frames.n_samples);
            if (c + 8 == n_channels) break;
        }
    }
    return t;
}
#endif

template <class Count>
Counts<Count> planar_copy(const Counts<Count>& counts, int64_t n_channels, std::vector<Count>& scratch) {
    const int64_t n = counts.n_samples;
    scratch.resize(static_cast<size_t>(n_channels * n));
    int64_t t = 0;
#if defined(__x86_64__)
    if constexpr (sizeof(Count) == 2) {
        if (counts.channel_stride == 1 && n_channels >= 8) t = transpose(counts, n_channels, scratch.data());
    }
#endif
    copy_tile(counts, 0, n_channels, t, n - t, scratch.data());
    return {scratch.data(), n, n, 1};
}

ECG_CLONES int64_t n_missing_of(const int32_t* nv, int64_t n) {
    int32_t n_missing = 0;
    for (int64_t t = 0; t < n; ++t) n_missing += nv[t] == kInvalid;
    return n_missing;
}

// One channel of whole nanovolts a count; how many are missing.
ECG_CLONES int64_t whole_nanovolts(const int16_t* counts, int64_t n, int32_t gain, int32_t offset, int32_t mark,
                                  int32_t* out) {
    if (mark < INT16_MIN || mark > INT16_MAX) {
        for (int64_t t = 0; t < n; ++t) out[t] = (counts[t] - offset) * gain;
        return 0;
    }
    int32_t n_missing = 0;
    for (int64_t t = 0; t < n; ++t) {
        const bool is_missing = counts[t] == mark;
        out[t] = is_missing ? kInvalid : (counts[t] - offset) * gain;
        n_missing += is_missing;
    }
    return n_missing;
}

ECG_CLONES void any_nanovolts(const int16_t* counts, int64_t n, double nv_per_count, double zero, int32_t mark,
                              int32_t* out) {
    for (int64_t t = 0; t < n; ++t) out[t] = nanovolts(counts[t], nv_per_count, zero, mark);
}

ECG_CLONES void any_nanovolts(const int32_t* counts, int64_t n, double nv_per_count, double zero, int64_t mark,
                              int32_t* out) {
    for (int64_t t = 0; t < n; ++t) out[t] = nanovolts(counts[t], nv_per_count, zero, mark);
}

template <class Count>
int64_t one_channel(const Count* counts, int64_t n, double nv_per_count, double zero, int64_t invalid, int32_t* out) {
    using Wide = std::conditional_t<sizeof(Count) == 2, int32_t, int64_t>;
    const auto mark = static_cast<Wide>(std::min<int64_t>(invalid, std::numeric_limits<Wide>::max()));
    if constexpr (sizeof(Count) == 2) {
        // Whole nanovolts a count, as most devices have, or so nearly (a gain written as 204.9180328 counts a mV) that
        // no count comes out another number: the same numbers in a fraction of the time.
        const double widest = 32768 + std::abs(zero), whole = std::nearbyint(nv_per_count);
        const bool fits = widest < 1e9 && std::abs(whole) * widest < 2147483647.0 && zero == std::trunc(zero);
        if (fits && std::abs(nv_per_count - whole) * widest < 0.49) {
            return whole_nanovolts(counts, n, static_cast<int32_t>(whole), static_cast<int32_t>(zero), mark, out);
        }
    }
    any_nanovolts(counts, n, nv_per_count, zero, mark, out);
    return n_missing_of(out, n);
}

template <class Count>
int64_t one_lead(const Counts<Count>& counts, const Mix& mix, int64_t invalid, int32_t* out) {
    const int64_t n = counts.n_samples;
    const Count* first = counts.data + mix.channel[0] * counts.channel_stride;
    if (mix.nv_per_count[1] == 0) {
        return one_channel(first, n, mix.nv_per_count[0], mix.zero_counts[0], invalid, out);
    }
    const Count* second = counts.data + mix.channel[1] * counts.channel_stride;
    for (int64_t t = 0; t < n; ++t) out[t] = nanovolts(first[t], second[t], mix, invalid);
    return n_missing_of(out, n);
}

typedef float Vec __attribute__((vector_size(64), aligned(4)));
constexpr int64_t kVec = 16;

// The lead in scaled units, extended at both ends by its edge samples and split by index modulo `down`:
// parts + r * stride holds the samples down*j + r - before. With it, outputs of one phase are unit-stride sums.
ECG_CLONES void split(const int32_t* nv, int64_t n, int64_t before, int64_t down, int64_t stride, Scale scale,
                      float* parts) {
    for (int64_t r = 0; r < down; ++r, parts += stride) {
        const int64_t first = (std::max<int64_t>(before - r, 0) + down - 1) / down;  // the first j inside the lead
        const int64_t end = std::min(stride, (n + before - r + down - 1) / down);
        std::fill(parts, parts + std::min(first, stride), scaled(nv[0], scale));
        const int64_t shift = r - before;
        if (down == 2) {
            for (int64_t j = first; j < end; ++j) parts[j] = scaled(nv[2 * j + shift], scale);
        } else {
            for (int64_t j = first; j < end; ++j) parts[j] = scaled(nv[down * j + shift], scale);
        }
        std::fill(parts + std::max(first, end), parts + stride, scaled(nv[n - 1], scale));
    }
}

// A tap that is not 0, and where in `parts` the inputs lie that it weighs, from output 0 of its phase on.
struct Tap {
    int64_t at;
    float weight;
};

using Taps = std::span<const Tap>;

// n outputs (a multiple of kVec) of one phase: out[j] = sum over the taps of weight * parts[at + j].
ECG_CLONES void by_loads(const float* parts, const Taps& taps, int64_t n, float* out) {
    int64_t j = 0;
    for (; j + 4 * kVec <= n; j += 4 * kVec) {
        Vec a{}, b{}, c{}, d{};
        for (const Tap& tap : taps) {
            const Vec* x = reinterpret_cast<const Vec*>(parts + tap.at + j);
            a += tap.weight * x[0];
            b += tap.weight * x[1];
            c += tap.weight * x[2];
            d += tap.weight * x[3];
        }
        Vec* to = reinterpret_cast<Vec*>(out + j);
        to[0] = a, to[1] = b, to[2] = c, to[3] = d;
    }
    for (; j < n; j += kVec) {
        Vec a{};
        for (const Tap& tap : taps) a += tap.weight * *reinterpret_cast<const Vec*>(parts + tap.at + j);
        *reinterpret_cast<Vec*>(out + j) = a;
    }
}

#if defined(__x86_64__)
// The same with AVX2: GCC takes the vectors of by_loads() apart before it makes clones.
__attribute__((target("avx2,fma"))) void by_avx2(const float* parts, const Taps& taps, int64_t n, float* out) {
    constexpr int64_t kLanes = 8, kAtOnce = 8;
    int64_t j = 0;
    for (; j + kAtOnce * kLanes <= n; j += kAtOnce * kLanes) {
        __m256 acc[kAtOnce];
        for (__m256& sum : acc) sum = _mm256_setzero_ps();
        for (const Tap& tap : taps) {
            const __m256 weight = _mm256_set1_ps(tap.weight);
            const float* x = parts + tap.at + j;
            for (int64_t i = 0; i < kAtOnce; ++i) {
                acc[i] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(x + i * kLanes), acc[i]);
            }
        }
        for (int64_t i = 0; i < kAtOnce; ++i) _mm256_storeu_ps(out + j + i * kLanes, acc[i]);
    }
    for (; j < n; j += kLanes) {
        __m256 acc = _mm256_setzero_ps();
        for (const Tap& tap : taps) {
            acc = _mm256_fmadd_ps(_mm256_set1_ps(tap.weight), _mm256_loadu_ps(parts + tap.at + j), acc);
        }
        _mm256_storeu_ps(out + j, acc);
    }
}

#define ECG_AVX512 __attribute__((target("avx512f"), always_inline)) inline

// acc + weights[k] * x[j + k] for k > 0, where a = x[j ..] and b = x[j + 16 ..]. Loads that cross cache lines are what
// limits this loop, so every other of the shifted vectors is made of the two that are there.
template <int k, int K>
ECG_AVX512 void add_taps(const float* x, const __m512* weights, __m512 a, __m512 b, __m512* acc) {
    if constexpr (k < K) {
        const __m512i shifted = _mm512_alignr_epi32(_mm512_castps_si512(b), _mm512_castps_si512(a), k);
        const __m512 samples = k % 2 ? _mm512_loadu_ps(x + k) : _mm512_castsi512_ps(shifted);
        acc[k % 2] = _mm512_fmadd_ps(weights[k], samples, acc[k % 2]);
        add_taps<k + 1, K>(x, weights, a, b, acc);
    }
}

// out[j] += sum of K taps that weigh samples next to each other.
template <int K>
__attribute__((target("avx512f"))) void add_run(const float* parts, const Tap* taps, int64_t n, float* out) {
    __m512 weights[K];
    for (int k = 0; k < K; ++k) weights[k] = _mm512_set1_ps(taps[k].weight);
    const float* x = parts + taps[0].at;
    __m512 a = _mm512_loadu_ps(x);
    for (int64_t j = 0; j < n; j += 16) {
        const __m512 b = _mm512_loadu_ps(x + j + 16);
        __m512 acc[2] = {_mm512_fmadd_ps(weights[0], a, _mm512_loadu_ps(out + j)), _mm512_setzero_ps()};
        add_taps<1, K>(x + j, weights, a, b, acc);
        _mm512_storeu_ps(out + j, _mm512_add_ps(acc[0], acc[1]));
        a = b;
    }
}

constexpr std::array kRuns = {add_run<1>, add_run<2>, add_run<3>, add_run<4>, add_run<5>,
                              add_run<6>, add_run<7>, add_run<8>, add_run<9>, add_run<10>};

// The same, of taps in order of `at`: fast where many of them weigh samples next to each other.
void by_runs(const float* parts, const Taps& taps, int64_t n, float* out) {
    std::fill(out, out + n, 0.0f);
    for (size_t k = 0; k < taps.size();) {
        size_t length = 1;
        const size_t longest = std::min(kRuns.size(), taps.size() - k);
        while (length < longest && taps[k + length].at == taps[k + length - 1].at + 1) ++length;
        kRuns[length - 1](parts, taps.data() + k, n, out);
        k += length;
    }
}
#endif

// Every `up`-th output from out[0] on.
ECG_CLONES void store(const float* phase, int64_t n, int64_t up, float clip, float* out) {
    int64_t j = 0;
#if defined(__x86_64__)
    // Past the caches: a batch is larger than they are, and is read by another thread.
    if (up == 1 && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
        const __m128 low = _mm_set1_ps(-clip), high = _mm_set1_ps(clip);
        for (; j + 4 <= n; j += 4) _mm_stream_ps(out + j, _mm_min_ps(_mm_max_ps(_mm_loadu_ps(phase + j), low), high));
    }
#endif
    for (; j < n; ++j) out[j * up] = limit(phase[j], clip);
}

using Weigh = void (*)(const float*, const Taps&, int64_t, float*);

Weigh best_for([[maybe_unused]] const Resampler& r) {
#if defined(__x86_64__)
    static const bool has_avx512 = __builtin_cpu_supports("avx512f");
    static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx512 && r.has_runs) return by_runs;
    if (has_avx2) return by_avx2;
#endif
    return by_loads;
}

}  // namespace

Counts<int16_t> planar(const Counts<int16_t>& counts, int64_t n_channels, std::vector<int16_t>& scratch) {
    return planar_copy(counts, n_channels, scratch);
}

Counts<int32_t> planar(const Counts<int32_t>& counts, int64_t n_channels, std::vector<int32_t>& scratch) {
    return planar_copy(counts, n_channels, scratch);
}

int64_t lead_nanovolts(const Counts<int16_t>& counts, const Mix& mix, int64_t invalid, int32_t* out) {
    return one_lead(counts, mix, invalid, out);
}

int64_t lead_nanovolts(const Counts<int32_t>& counts, const Mix& mix, int64_t invalid, int32_t* out) {
    return one_lead(counts, mix, invalid, out);
}

Resampler::Resampler(int64_t up_, int64_t down_, int64_t half_, int64_t n_taps_, std::vector<float> taps_)
    : up(up_), down(down_), half(half_), n_taps(n_taps_), taps(std::move(taps_)), phases(static_cast<size_t>(up_)) {
    constexpr size_t kRun = 4;  // shorter ones cost more than they save
    size_t n = 0, n_runs = 0;
    for (int64_t t = 0; t < up; ++t) {
        const Position position_of = position(t, up, down, half, n_taps);
        std::vector<Tap>& phase = phases[static_cast<size_t>(t)];
        for (int64_t k = 0; k < n_taps; ++k) {
            const float weight = taps[static_cast<size_t>(position_of.phase * n_taps + k)];
            const int64_t input = before() + position_of.first + k;
            if (weight != 0) phase.push_back({input % down, input / down, weight});  // half of a halving filter's are 0
        }
        std::sort(phase.begin(), phase.end(), [](const Tap& a, const Tap& b) {
            return a.part != b.part ? a.part < b.part : a.at < b.at;
        });
        for (size_t i = 0; i < phase.size(); ++i) {
            n_runs += i == 0 || phase[i].part != phase[i - 1].part || phase[i].at != phase[i - 1].at + 1;
        }
        n += phase.size();
    }
    has_runs = n >= kRun * n_runs;
}

int64_t Resampler::before() const { return -position(0, up, down, half, n_taps).first; }

int64_t Resampler::reach() const { return before() + position(up - 1, up, down, half, n_taps).first + n_taps; }

ECG_CLONES float mean(const int32_t* nv, int64_t n) {
    int64_t sum = 0;
    for (int64_t t = 0; t < n; ++t) sum += nv[t];
    return static_cast<float>(static_cast<double>(sum) / static_cast<double>(n));
}

void model_inputs(const int32_t* nv, int64_t n, const Resampler& r, const std::vector<Scale>& scales, float clip,
                  int64_t samples, float* out) {
    const int64_t made = std::min(samples, resampled_length(n, r.up, r.down));
    if (r.up == r.down) {
        for (size_t lead = 0; lead < scales.size(); ++lead, nv += n, out += samples) {
            for (int64_t t = 0; t < made; ++t) out[t] = limit(scaled(nv[t], scales[lead]), clip);
            std::fill(out + made, out + samples, 0.0f);
        }
        return;
    }
    const int64_t n_phases = std::min(r.up, made), per_phase = (made + r.up - 1) / r.up;
    const int64_t padded = (per_phase + kVec - 1) / kVec * kVec;  // whole vectors; what lies beyond is not stored
    const int64_t stride = r.reach() / r.down + padded + 2;
    thread_local std::vector<float> parts, phase;
    thread_local std::vector<Tap> taps;
    parts.resize(static_cast<size_t>(stride * r.down + 2 * kVec));
    phase.resize(static_cast<size_t>(padded));
    taps.clear();
    for (int64_t t = 0; t < n_phases; ++t) {
        for (const auto& [part, at, weight] : r.phases[static_cast<size_t>(t)]) {
            taps.push_back({part * stride + at, weight});
        }
    }
    const Weigh weigh = best_for(r);
    for (size_t lead = 0; lead < scales.size(); ++lead, nv += n, out += samples) {
        split(nv, n, r.before(), r.down, stride, scales[lead], parts.data());
        const Tap* first = taps.data();
        for (int64_t t = 0; t < n_phases; ++t) {
            const size_t n_taps = r.phases[static_cast<size_t>(t)].size();
            weigh(parts.data(), {first, n_taps}, padded, phase.data());
            store(phase.data(), (made - t + r.up - 1) / r.up, r.up, clip, out + t);
            first += n_taps;
        }
        std::fill(out + made, out + samples, 0.0f);
    }
#if defined(__x86_64__)
    _mm_sfence();  // whoever reads them next sees what was streamed
#endif
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
