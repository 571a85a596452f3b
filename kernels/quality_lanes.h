// The part of quality.cpp that takes eight leads at once. Included twice, for machines with AVX2 and for others: GCC
// splits vectors of 32 bytes before it makes clones, so ECG_CLONES would not help. No include guard, no includes.

namespace {

inline Vec least(Vec a, Vec b) { return a < b ? a : b; }
inline Vec largest(Vec a, Vec b) { return a > b ? a : b; }
inline Vec all(float x) { return Vec{} + x; }

inline Vec root(Vec x) {
    for (int i = 0; i < kQualityLeads; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
}

inline void interleave(const Vec* from, Vec* to) {
    for (int i = 0; i < 4; ++i) {
        to[2 * i] = __builtin_shufflevector(from[i], from[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
        to[2 * i + 1] = __builtin_shufflevector(from[i], from[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
}

// (lead, stride) to (time, lead), eight samples at a time.
void transpose(const float* rows, int64_t stride, int64_t n, Vec* out) {
    for (int64_t t = 0; t < n; t += 8, out += 8) {
        Vec a[8], b[8];
        for (int i = 0; i < 8; ++i) a[i] = *reinterpret_cast<const Vec*>(rows + i * stride + t);
        interleave(a, b);
        interleave(b, a);
        interleave(a, out);
    }
}

// Range and mean of every block.
void blocks(const Vec* x, const Grid& grid, Vec* range, Vec* mean) {
    const float per_n = 1.0f / static_cast<float>(grid.block);
    for (int64_t i = 0; i < grid.n_blocks; ++i, x += grid.block) {
        Vec low = x[0], high = x[0], sum = x[0];
        for (int64_t t = 1; t < grid.block; ++t) {
            low = least(low, x[t]);
            high = largest(high, x[t]);
            sum += x[t];
        }
        range[i] = high - low;
        mean[i] = sum * per_n;
    }
}

Vec flat_share(const Vec* range, const Grid& grid) {
    Vec moving{};  // any range at all counts as one: the least is that of a nanovolt in one sample
    for (int64_t i = 0; i < grid.n_blocks; ++i) moving += least(range[i] * 1e9f, all(1));
    return largest(1.0f - moving * (1.0f / static_cast<float>(grid.n_blocks)), Vec{});
}

Vec wander(const Vec* mean, const Grid& grid) {
    Vec low{}, high{};
    for (int64_t i = 0; i < grid.n_blocks / kBlocksPerHalf; ++i) {
        Vec sum{};
        for (int64_t k = 0; k < kBlocksPerHalf; ++k) sum += *mean++;
        low = i ? least(low, sum) : sum;
        high = i ? largest(high, sum) : sum;
    }
    return (high - low) * (1.0f / kBlocksPerHalf);
}

// The middle window's largest range, and how much larger the largest of all is.
void peaks(const Vec* range, const Grid& grid, float* scratch, Vec& qrs, Vec& spike) {
    for (int64_t w = 0; w < grid.n_windows; ++w) {
        Vec most{};
        for (int64_t i = grid.first_block(w); i < grid.first_block(w + 1); ++i) most = largest(most, range[i]);
        for (int lead = 0; lead < kQualityLeads; ++lead) scratch[lead * grid.n_windows + w] = most[lead];
    }
    for (int lead = 0; lead < kQualityLeads; ++lead, scratch += grid.n_windows) {
        sort(scratch, grid.n_windows);
        qrs[lead] = scratch[grid.n_windows / 2];
        spike[lead] = scratch[grid.n_windows - 1] - qrs[lead];
    }
}

// The power of a segment's second difference over `lag`: at each line, and the rest.
void spectrum(const Vec* x, int64_t n, int64_t lag, const Lines& lines, Vec* out) {
    Vec power{}, sums[4] = {};
    const float* turn = lines.turns.data();
    for (int64_t t = 0; t < n; ++t, turn += 4) {
        const Vec bend = x[t] - 0.5f * (x[t - lag] + x[t + lag]);
        power += bend * bend;
        for (int k = 0; k < 4; ++k) sums[k] += bend * turn[k];
    }
    const float per_n = 1.0f / static_cast<float>(n), per_n2 = 2 * per_n * per_n;
    out[0] = (sums[0] * sums[0] + sums[1] * sums[1]) * per_n2;
    out[1] = (sums[2] * sums[2] + sums[3] * sums[3]) * per_n2;
    out[2] = largest(power * per_n - out[0] - out[1], Vec{});
}

// Mains and noise, each in the quietest segment of a window, and on average over the windows.
void quiet(const Vec* x, const Grid& grid, const Lines& lines, Vec& mains, Vec& noise) {
    const int64_t n = grid.block * kBlocksPerSegment;
    Vec sum[3] = {};
    for (int64_t w = 0; w < grid.n_windows && grid.n_segments > 0; ++w) {
        Vec best[3] = {all(kHuge), all(kHuge), all(kHuge)};
        for (int64_t i = grid.first_segment(w); i < grid.first_segment(w + 1); ++i) {
            Vec found[3];
            spectrum(x + i * n, n, grid.lag, lines, found);
            for (int k = 0; k < 3; ++k) best[k] = least(best[k], found[k]);
        }
        for (int k = 0; k < 3; ++k) sum[k] += best[k];
    }
    const float per_window = 1.0f / static_cast<float>(grid.n_windows);
    const Vec at_50 = root(sum[0] * (2 * per_window)) * lines.gain[0];
    const Vec at_60 = root(sum[1] * (2 * per_window)) * lines.gain[1];
    mains = largest(at_50, at_60);
    noise = root(sum[2] * per_window);
}

// Correlation of each lead's activity, cut at its QRS, with the mean of the other leads'.
Vec agreement(const Vec* range, const Grid& grid, Vec qrs) {
    const Vec scale = 1.0f / (qrs + kFloorUv);
    Vec own{}, other{}, own2{}, other2{}, both{};
    for (int64_t i = 0; i < grid.n_blocks; ++i) {
        const Vec a = least(range[i], qrs) * scale;
        const Vec pairs = a + __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6);
        const Vec fours = pairs + __builtin_shufflevector(pairs, pairs, 2, 3, 0, 1, 6, 7, 4, 5);
        const Vec total = fours + __builtin_shufflevector(fours, fours, 4, 5, 6, 7, 0, 1, 2, 3);
        const Vec rest = (total - a) * (1.0f / (kQualityLeads - 1));
        own += a, other += rest;
        own2 += a * a, other2 += rest * rest, both += a * rest;
    }
    const float per_n = 1.0f / static_cast<float>(grid.n_blocks);
    const Vec own_spread = largest(own2 - own * own * per_n, Vec{});
    const Vec other_spread = largest(other2 - other * other * per_n, Vec{});
    return (both - own * other * per_n) / root(own_spread * other_spread + kLeastSpread);
}

}  // namespace

// All measures but the two that follow from the stored samples.
void measure(const float* rows, const Grid& grid, const Lines& lines, Scratch& scratch, float* out) {
    Vec* x = scratch.samples.resized(grid.lag + grid.padded() + grid.lag) + grid.lag;
    Vec* range = scratch.ranges.resized(grid.n_blocks);
    Vec* mean = scratch.means.resized(grid.n_blocks);
    float* windows = reinterpret_cast<float*>(scratch.windows.resized(grid.n_windows));
    transpose(rows, grid.padded(), grid.padded(), x);
    for (int64_t t = 1; t <= grid.lag; ++t) x[-t] = x[0];
    for (int64_t t = grid.n; t < grid.padded() + grid.lag; ++t) x[t] = x[grid.n - 1];
    blocks(x, grid, range, mean);
    Vec* found = reinterpret_cast<Vec*>(out);
    found[kFlat] = flat_share(range, grid);
    found[kWander] = wander(mean, grid);
    peaks(range, grid, windows, found[kQrs], found[kSpike]);
    quiet(x, grid, lines, found[kMains], found[kNoise]);
    found[kAgreement] = agreement(range, grid, found[kQrs]);
}
