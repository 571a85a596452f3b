// Samples of WFDB signal files, whatever their packing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ecg {

// Bytes that n samples take in a format; 0 for a format that is not one of the packed ones.
// Formats: 8 16 24 32 61 80 160 212 310 311 (signal(5) of the WFDB manual).
size_t wfdb_bytes(int format, size_t n);

// n samples of data, which holds at least wfdb_bytes(format, n). Format 8's differences are left as they are.
void wfdb_unpack(int format, const uint8_t* data, size_t n, int32_t* out);

}  // namespace ecg
