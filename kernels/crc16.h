// CRC-CCITT (polynomial 0x1021, from 0xFFFF, highest bit first) of EN 1064 and ISHNE, eight bytes a step.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ecg {

uint16_t crc16(const uint8_t* data, size_t n);

}  // namespace ecg
