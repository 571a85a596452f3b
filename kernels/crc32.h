// CRC-32 (ISO 3309, zlib's), by carry-less multiplication where the processor has it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ecg {

uint32_t crc32(const uint8_t* data, size_t n);

}  // namespace ecg
