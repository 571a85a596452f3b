// Base64 as it stands in XML: white space anywhere, padding or none.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ecg {

// Decodes text[0..n) into out, which has room for 3 * (n / 4 + 1) + 32 bytes; returns the number of bytes, or -1
// where a character outside the alphabet, text after the padding or half a byte shows damage.
int64_t base64_decode(const uint8_t* text, size_t n, uint8_t* out);

}  // namespace ecg
