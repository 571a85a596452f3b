#include "wfdb.h"

namespace ecg {
namespace {

int32_t sign_extend(uint32_t value, int bits) { return static_cast<int32_t>(value << (32 - bits)) >> (32 - bits); }

uint32_t word(const uint8_t* p) { return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8; }

// Two 12-bit samples in three bytes; a last odd sample takes two.
void unpack_212(const uint8_t* p, size_t n, int32_t* out) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* group = p + i / 2 * 3;
        const uint32_t value = i % 2 ? (group[1] & 0xF0u) << 4 | group[2] : (group[1] & 0x0Fu) << 8 | group[0];
        out[i] = sign_extend(value, 12);
    }
}

// Three 10-bit samples in two 16-bit words: bits 1-10 of each word, and the third in both words' bits 11-15.
void unpack_310(const uint8_t* p, size_t n, int32_t* out) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* group = p + i / 3 * 4;
        const uint32_t value = i % 3 == 0   ? word(group) >> 1
                               : i % 3 == 1 ? word(group + 2) >> 1
                                            : word(group) >> 11 | word(group + 2) >> 11 << 5;
        out[i] = sign_extend(value & 0x3FF, 10);
    }
}

// Three 10-bit samples in one 32-bit word, lowest first; a last incomplete group takes only the bytes it needs.
void unpack_311(const uint8_t* p, size_t n, int32_t* out) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* group = p + i / 3 * 4;
        const uint32_t value = i % 3 == 0 ? word(group) : i % 3 == 1 ? word(group + 1) >> 2 : word(group + 2) >> 4;
        out[i] = sign_extend(value & 0x3FF, 10);
    }
}

}  // namespace

size_t wfdb_bytes(int format, size_t n) {
    switch (format) {
        case 8: case 80: return n;
        case 16: case 61: case 160: return 2 * n;
        case 24: return 3 * n;
        case 32: return 4 * n;
        case 212: return n / 2 * 3 + n % 2 * 2;
        case 310: return n / 3 * 4 + n % 3 * 2;
        case 311: return n / 3 * 4 + (n % 3 ? n % 3 + 1 : 0);
        default: return 0;
    }
}

void wfdb_unpack(int format, const uint8_t* p, size_t n, int32_t* out) {
    switch (format) {
        case 8: for (size_t i = 0; i < n; ++i) out[i] = static_cast<int8_t>(p[i]); break;
        case 80: for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(p[i]) - 128; break;
        case 16: for (size_t i = 0; i < n; ++i) out[i] = sign_extend(word(p + 2 * i), 16); break;
        case 61:
            for (size_t i = 0; i < n; ++i) out[i] = sign_extend(uint32_t{p[2 * i]} << 8 | p[2 * i + 1], 16);
            break;
        case 160: for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(word(p + 2 * i)) - 32768; break;
        case 24:
            for (size_t i = 0; i < n; ++i) out[i] = sign_extend(word(p + 3 * i) | uint32_t{p[3 * i + 2]} << 16, 24);
            break;
        case 32:
            for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(word(p + 4 * i) | word(p + 4 * i + 2) << 16);
            break;
        case 212: unpack_212(p, n, out); break;
        case 310: unpack_310(p, n, out); break;
        case 311: unpack_311(p, n, out); break;
        default: break;
    }
}

}  // namespace ecg
