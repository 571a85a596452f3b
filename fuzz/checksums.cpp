// CRC-16 and CRC-32, held to a bit at a time.
#include "../kernels/crc16.h"
#include "../kernels/crc32.h"
#include "input.h"

FUZZ(input) {
    uint32_t sixteen = 0xFFFF, thirty_two = ~0u;
    for (const char c : input.text()) {
        const auto byte = static_cast<uint8_t>(c);
        sixteen ^= uint32_t{byte} << 8;
        thirty_two ^= byte;
        for (int bit = 0; bit < 8; ++bit) {
            sixteen = (sixteen << 1 ^ (sixteen & 0x8000 ? 0x1021 : 0)) & 0xFFFF;
            thirty_two = thirty_two >> 1 ^ (thirty_two & 1 ? 0xEDB88320 : 0);
        }
    }
    check(ecg::crc16(input.data, input.n) == sixteen);
    check(ecg::crc32(input.data, input.n) == ~thirty_two);
}
