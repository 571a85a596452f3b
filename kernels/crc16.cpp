#include "crc16.h"

#include <array>

namespace ecg {
namespace {

// kTables[k][b]: what byte b adds to the remainder when k more bytes follow it in the step.
constexpr auto kTables = [] {
    std::array<std::array<uint16_t, 256>, 8> tables{};
    for (unsigned b = 0; b < 256; ++b) {
        unsigned c = b << 8;
        for (int bit = 0; bit < 8; ++bit) c = (c << 1) ^ (c & 0x8000u ? 0x1021u : 0u);
        tables[0][b] = static_cast<uint16_t>(c);
    }
    for (size_t k = 1; k < 8; ++k) {
        for (size_t b = 0; b < 256; ++b) {
            const unsigned c = tables[k - 1][b];
            tables[k][b] = static_cast<uint16_t>((c << 8) ^ tables[0][c >> 8]);
        }
    }
    return tables;
}();

}  // namespace

uint16_t crc16(const uint8_t* p, size_t n) {
    unsigned crc = 0xFFFF;
    for (; n >= 8; n -= 8, p += 8) {
        crc = kTables[7][p[0] ^ crc >> 8] ^ kTables[6][p[1] ^ (crc & 0xFF)] ^ kTables[5][p[2]] ^ kTables[4][p[3]] ^
              kTables[3][p[4]] ^ kTables[2][p[5]] ^ kTables[1][p[6]] ^ kTables[0][p[7]];
    }
    for (; n > 0; --n, ++p) crc = (crc << 8 & 0xFFFF) ^ kTables[0][*p ^ crc >> 8];
    return static_cast<uint16_t>(crc);
}

}  // namespace ecg
