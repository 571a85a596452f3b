#include "base64.h"

#include <algorithm>
#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ecg {
namespace {

constexpr uint8_t kBad = 0xFF, kSpace = 0xFE, kPad = 0xFD;

constexpr auto kValue = [] {
    std::array<uint8_t, 256> value{};
    value.fill(kBad);
    for (uint8_t i = 0; i < 26; ++i) {
        value['A' + i] = i;
        value['a' + i] = static_cast<uint8_t>(26 + i);
    }
    for (uint8_t i = 0; i < 10; ++i) value['0' + i] = static_cast<uint8_t>(52 + i);
    value['+'] = 62;
    value['/'] = 63;
    value['='] = kPad;
    for (char space : {' ', '\t', '\r', '\n'}) value[static_cast<uint8_t>(space)] = kSpace;
    return value;
}();

#if defined(__x86_64__)
// Up to 32 characters into 24 bytes a step, white space between groups of four skipped; returns the characters
// taken and moves `out` on. Writes 32 bytes at a time.
// (Muła and Lemire, Faster Base64 Encoding and Decoding using AVX2 Instructions, 2018.)
__attribute__((target("avx2"))) size_t blocks_avx2(const uint8_t* text, size_t n, uint8_t*& out) {
    const __m256i low_table = _mm256_setr_epi8(0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x13, 0x1A,
                                               0x1B, 0x1B, 0x1B, 0x1A, 0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11,
                                               0x11, 0x11, 0x13, 0x1A, 0x1B, 0x1B, 0x1B, 0x1A);
    const __m256i high_table = _mm256_setr_epi8(0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08, 0x10, 0x10, 0x10, 0x10,
                                                0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08,
                                                0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10);
    const __m256i offset_table = _mm256_setr_epi8(0, 16, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 19, 4,
                                                  -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i gather = _mm256_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1, 2, 1, 0, 6, 5, 4, 10,
                                            9, 8, 14, 13, 12, -1, -1, -1, -1);
    const __m256i join = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 7, 7);
    const __m256i slash = _mm256_set1_epi8(0x2F);
    const uint8_t* const start = text;
    const uint8_t* const end = text + n;
    uint8_t* to = out;
    while (end - text >= 32) {
        const __m256i in = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text));
        const __m256i high = _mm256_and_si256(_mm256_srli_epi32(in, 4), slash);
        const __m256i low = _mm256_and_si256(in, slash);
        const __m256i clash = _mm256_and_si256(_mm256_shuffle_epi8(low_table, low), _mm256_shuffle_epi8(high_table, high));
        const auto legal = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(clash, _mm256_setzero_si256())));
        const __m256i is_slash = _mm256_cmpeq_epi8(in, slash);
        const __m256i six = _mm256_add_epi8(in, _mm256_shuffle_epi8(offset_table, _mm256_add_epi8(is_slash, high)));
        const __m256i twelve = _mm256_maddubs_epi16(six, _mm256_set1_epi32(0x01400140));
        const __m256i all = _mm256_madd_epi16(twelve, _mm256_set1_epi32(0x00011000));
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(all, gather), join);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
        const unsigned n_legal = legal == ~0u ? 32 : static_cast<unsigned>(__builtin_ctz(~legal));
        text += n_legal / 4 * 4;
        to += n_legal / 4 * 3;
        if (n_legal == 32) continue;
        if (n_legal % 4 != 0 || kValue[*text] != kSpace) break;  // a group over two lines, padding or damage
        while (text != end && kValue[*text] == kSpace) ++text;
    }
    out = to;
    return static_cast<size_t>(text - start);
}
#endif

#if defined(__x86_64__)
constexpr auto kWide = [] {  // of the first 128 characters, 0x80 for any that is not in the alphabet
    std::array<uint8_t, 128> wide{};
    for (size_t c = 0; c < wide.size(); ++c) wide[c] = kValue[c] < 64 ? kValue[c] : 0x80;
    return wide;
}();

constexpr auto kPacked = [] {  // three bytes of every 32-bit group, most significant first
    std::array<uint8_t, 64> from{};
    for (uint8_t i = 0; i < 48; ++i) from[i] = static_cast<uint8_t>(i / 3 * 4 + 2 - i % 3);
    return from;
}();

#define ECG_VBMI __attribute__((target("avx512f,avx512bw,avx512vbmi,avx512vbmi2")))

// 64 characters a step into 48 bytes, writing 64, until one of them is not in the alphabet; returns those taken and
// moves `out` on. (Muła and Lemire, Base64 encoding and decoding at almost the speed of a memory copy, 2019.)
ECG_VBMI size_t blocks_avx512(const uint8_t* solid, size_t n, uint8_t*& out) {
    const __m512i low = _mm512_loadu_si512(kWide.data()), high = _mm512_loadu_si512(kWide.data() + 64);
    const __m512i packed = _mm512_loadu_si512(kPacked.data());
    size_t i = 0;
    for (; i + 64 <= n; i += 64, out += 48) {
        const __m512i in = _mm512_loadu_si512(solid + i);
        const __m512i six = _mm512_permutex2var_epi8(low, in, high);
        if (_mm512_movepi8_mask(_mm512_or_si512(in, six))) break;
        const __m512i twelve = _mm512_maddubs_epi16(six, _mm512_set1_epi32(0x01400140));
        const __m512i all = _mm512_madd_epi16(twelve, _mm512_set1_epi32(0x00011000));
        _mm512_storeu_si512(out, _mm512_permutexvar_epi8(packed, all));
    }
    return i;
}

// text without white space, 64 characters a step; returns how many are left, and writes up to 64 beyond them.
ECG_VBMI size_t squeeze(const uint8_t* text, size_t n, uint8_t* solid) {
    uint8_t* to = solid;
    for (size_t i = 0; i < n; i += 64) {
        const __mmask64 there = n - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (n - i)) - 1;
        const __m512i in = _mm512_maskz_loadu_epi8(there, text + i);
        __mmask64 kept = _mm512_mask_cmpneq_epi8_mask(there, in, _mm512_set1_epi8(' '));
        kept = _mm512_mask_cmpneq_epi8_mask(kept, in, _mm512_set1_epi8('\n'));
        kept = _mm512_mask_cmpneq_epi8_mask(kept, in, _mm512_set1_epi8('\r'));
        kept = _mm512_mask_cmpneq_epi8_mask(kept, in, _mm512_set1_epi8('\t'));
        _mm512_storeu_si512(to, _mm512_maskz_compress_epi8(kept, in));
        to += __builtin_popcountll(kept);
    }
    return static_cast<size_t>(to - solid);
}
#endif

// Characters one by one, in groups of four.
struct Groups {
    uint8_t* to;
    uint32_t bits = 0;
    int held = 0;  // characters of the unfinished group
    int pads = 0;
    bool is_damaged = false;

    bool is_between() const { return held == 0 && pads == 0 && !is_damaged; }

    void take(const uint8_t* text, size_t n) {
        for (size_t i = 0; i < n; ++i) {
            const uint8_t value = kValue[text[i]];
            if (value == kSpace) continue;
            pads += value == kPad;
            is_damaged |= value == kBad || (value < 64 && pads > 0);
            if (value >= 64) continue;
            bits = bits << 6 | value;
            if (++held == 4) {
                *to++ = static_cast<uint8_t>(bits >> 16);
                *to++ = static_cast<uint8_t>(bits >> 8);
                *to++ = static_cast<uint8_t>(bits);
                held = 0;
            }
        }
    }

    // Ends the last group; false where it cannot end so.
    bool finish() {
        if (is_damaged || held == 1 || pads > 2 || (pads > 0 && held + pads != 4)) return false;
        if (held >= 2) *to++ = static_cast<uint8_t>(bits >> (6 * held - 8));
        if (held == 3) *to++ = static_cast<uint8_t>(bits >> 2);
        return true;
    }
};

#if defined(__x86_64__)
// A tile of text at a time, so that what lies between the two steps stays in the first cache.
void by_tiles(const uint8_t* text, size_t n, Groups& groups) {
    constexpr size_t kTile = 4096;
    uint8_t solid[kTile + 128];
    size_t held = 0;  // characters that wait for a whole block
    for (size_t i = 0; i < n; i += kTile) {
        held += squeeze(text + i, std::min(kTile, n - i), solid + held);
        const size_t taken = groups.is_between() ? blocks_avx512(solid, held, groups.to) : 0;
        held -= taken;
        if (held >= 64) {  // padding or damage is in sight
            groups.take(solid + taken, held);
            held = 0;
        } else {
            std::memmove(solid, solid + taken, held);
        }
    }
    groups.take(solid, held);
}

void by_lines(const uint8_t* text, size_t n, Groups& groups) {
    for (size_t i = 0; i < n;) {
        if (groups.is_between()) i += blocks_avx2(text + i, n - i, groups.to);
        const size_t from = i;  // what stopped the blocks is near: go by characters to the next line
        while (i < n && kValue[text[i]] != kSpace) ++i;
        while (i < n && kValue[text[i]] == kSpace) ++i;
        groups.take(text + from, i - from);
    }
}
#endif

}  // namespace

int64_t base64_decode(const uint8_t* text, size_t n, uint8_t* out) {
    Groups groups{out};
#if defined(__x86_64__)
    static const bool has_vbmi = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi") &&
                                 __builtin_cpu_supports("avx512vbmi2");
    static const bool has_avx2 = __builtin_cpu_supports("avx2");
    if (has_vbmi) {
        by_tiles(text, n, groups);
    } else if (has_avx2) {
        by_lines(text, n, groups);
    } else {
        groups.take(text, n);
    }
#else
    groups.take(text, n);
#endif
    return groups.finish() ? groups.to - out : -1;
}

}  // namespace ecg
