#include "crc32.h"

#include <array>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ecg {
namespace {

constexpr auto kTables = [] {
    std::array<std::array<uint32_t, 256>, 8> tables{};
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (0xEDB88320u & (0u - (c & 1u)));
        tables[0][i] = c;
    }
    for (size_t t = 1; t < 8; ++t) {
        for (size_t i = 0; i < 256; ++i) {
            tables[t][i] = (tables[t - 1][i] >> 8) ^ tables[0][tables[t - 1][i] & 0xFF];
        }
    }
    return tables;
}();

// Eight bytes a step through eight tables.
uint32_t by_table(uint32_t crc, const uint8_t* p, size_t n) {
    for (; n >= 8; n -= 8, p += 8) {
        crc ^= static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
               static_cast<uint32_t>(p[3]) << 24;
        crc = kTables[7][crc & 0xFF] ^ kTables[6][crc >> 8 & 0xFF] ^ kTables[5][crc >> 16 & 0xFF] ^
              kTables[4][crc >> 24] ^ kTables[3][p[4]] ^ kTables[2][p[5]] ^ kTables[1][p[6]] ^ kTables[0][p[7]];
    }
    for (; n > 0; --n, ++p) crc = kTables[0][(crc ^ *p) & 0xFF] ^ (crc >> 8);
    return crc;
}

#if defined(__x86_64__)
// x^n mod P, bit-reflected: what multiplying a lane by moves it n bits ahead in the message.
constexpr uint64_t power(unsigned n) {
    uint32_t r = 0x80000000u;  // x^0, reflected
    for (unsigned i = 0; i < n; ++i) r = (r >> 1) ^ (0xEDB88320u & (0u - (r & 1u)));
    return static_cast<uint64_t>(r) << 1;
}

__attribute__((target("pclmul,sse4.1"))) inline __m128i fold(__m128i lane, __m128i by, __m128i next) {
    const __m128i low = _mm_clmulepi64_si128(lane, by, 0x00);
    const __m128i high = _mm_clmulepi64_si128(lane, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// The multipliers that move a lane so many bytes ahead.
template <unsigned bytes>
__m128i folding() {
    constexpr uint64_t low = power(8 * bytes + 32), high = power(8 * bytes - 32);
    return _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low));
}

// Four lanes into one; its 16 bytes, congruent to all that went before, and what is left end by table.
__attribute__((target("pclmul,sse4.1"))) uint32_t end_of(const __m128i* lanes, const uint8_t* p, size_t n) {
    const __m128i by16 = folding<16>();
    const __m128i last = fold(fold(fold(lanes[0], by16, lanes[1]), by16, lanes[2]), by16, lanes[3]);
    alignas(16) uint8_t rest[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(rest), last);
    return by_table(by_table(0, rest, 16), p, n);
}

// Four 16-byte lanes folded 64 bytes ahead a step. (Gopal et al., Fast CRC computation using PCLMULQDQ, Intel 2009.)
__attribute__((target("pclmul,sse4.1"))) uint32_t by_folding(uint32_t crc, const uint8_t* p, size_t n) {
    const auto load = [](const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); };
    const __m128i by64 = folding<64>();
    __m128i lanes[4] = {_mm_xor_si128(load(p), _mm_cvtsi32_si128(static_cast<int>(crc))), load(p + 16), load(p + 32),
                        load(p + 48)};
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
        for (int i = 0; i < 4; ++i) lanes[i] = fold(lanes[i], by64, load(p + 16 * i));
    }
    return end_of(lanes, p, n);
}

#define ECG_VPCLMUL __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.1")))

ECG_VPCLMUL inline __m512i fold_wide(__m512i lanes, __m512i by, __m512i next) {
    const __m512i low = _mm512_clmulepi64_epi128(lanes, by, 0x00);
    const __m512i high = _mm512_clmulepi64_epi128(lanes, by, 0x11);
    return _mm512_ternarylogic_epi64(low, high, next, 0x96);  // xor of all three
}

// The same with sixteen lanes, 256 bytes a step.
ECG_VPCLMUL uint32_t by_wide_folding(uint32_t crc, const uint8_t* p, size_t n) {
    const __m512i by256 = _mm512_broadcast_i32x4(folding<256>()), by64 = _mm512_broadcast_i32x4(folding<64>());
    __m512i wide[4];
    for (int i = 0; i < 4; ++i) wide[i] = _mm512_loadu_si512(p + 64 * i);
    wide[0] = _mm512_xor_si512(wide[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(crc))));
    for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
        for (int i = 0; i < 4; ++i) wide[i] = fold_wide(wide[i], by256, _mm512_loadu_si512(p + 64 * i));
    }
    __m512i last = fold_wide(fold_wide(fold_wide(wide[0], by64, wide[1]), by64, wide[2]), by64, wide[3]);
    for (; n >= 64; p += 64, n -= 64) last = fold_wide(last, by64, _mm512_loadu_si512(p));
    __m128i lanes[4];
    _mm512_storeu_si512(lanes, last);
    return end_of(lanes, p, n);
}
#endif

}  // namespace

uint32_t crc32(const uint8_t* data, size_t n) {
#if defined(__x86_64__)
    static const bool folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
    static const bool folds_wide = folds && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
    if (folds_wide && n >= 256) return ~by_wide_folding(~0u, data, n);
    if (folds && n >= 64) return ~by_folding(~0u, data, n);
#endif
    return ~by_table(~0u, data, n);
}

}  // namespace ecg
