// Base64 as it stands in XML: white space anywhere, padding or none.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ecg {

// Bytes that decoding n characters may touch.
constexpr size_t base64_room(size_t n) { return 3 * (n / 4 + 1) + 64; }

// Decodes text[0..n) into out, which has base64_room(n) bytes; returns the number of bytes, or -1
// where a character outside the alphabet, text after the padding or half a byte shows damage.
int64_t base64_decode(const uint8_t* text, size_t n, uint8_t* out);

}  // namespace ecg
