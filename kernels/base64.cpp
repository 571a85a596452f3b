#include "base64.h"

#include <array>
#include <vector>

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
// text without white space, 64 characters a step; writes up to 64 bytes beyond what it returns.
__attribute__((target("avx512f,avx512bw,avx512vbmi2"))) size_t squeeze_avx512(const uint8_t* text, size_t n, uint8_t* out) {
    uint8_t* to = out;
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
    return static_cast<size_t>(to - out);
}

bool can_squeeze() {
    static const bool can = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2");
    return can;
}
#endif

size_t blocks(const uint8_t* text, size_t n, uint8_t*& out) {
#if defined(__x86_64__)
    static const bool has_avx2 = __builtin_cpu_supports("avx2");
    if (has_avx2) return blocks_avx2(text, n, out);
#endif
    (void)text, (void)n, (void)out;
    return 0;
}

}  // namespace

int64_t base64_decode(const uint8_t* text, size_t n, uint8_t* out) {
#if defined(__x86_64__)
    if (can_squeeze()) {
        thread_local std::vector<uint8_t> solid;
        solid.resize(n + 64);
        n = squeeze_avx512(text, n, solid.data());
        text = solid.data();
    }
#endif
    uint8_t* to = out;
    uint32_t bits = 0;
    int held = 0;  // characters of an unfinished group of four
    size_t i = 0;
    bool try_blocks = true;
    for (; i < n; ++i) {
        if (held == 0 && try_blocks) {
            i += blocks(text + i, n - i, to);
            try_blocks = false;  // what stopped the blocks is near: go by characters to the next white space
            if (i == n) break;
        }
        const uint8_t value = kValue[text[i]];
        if (value < 64) {
            bits = bits << 6 | value;
            if (++held == 4) {
                *to++ = static_cast<uint8_t>(bits >> 16);
                *to++ = static_cast<uint8_t>(bits >> 8);
                *to++ = static_cast<uint8_t>(bits);
                held = 0;
            }
        } else if (value == kSpace) {
            try_blocks = true;
        } else {
            break;
        }
    }
    int pads = 0;
    for (; i < n; ++i) {
        const uint8_t value = kValue[text[i]];
        if (value == kPad) {
            ++pads;
        } else if (value != kSpace) {
            return -1;
        }
    }
    if (held == 1 || pads > 2 || (pads > 0 && held + pads != 4)) return -1;
    if (held >= 2) *to++ = static_cast<uint8_t>(bits >> (6 * held - 8));
    if (held == 3) *to++ = static_cast<uint8_t>(bits >> 2);
    return to - out;
}

}  // namespace ecg
