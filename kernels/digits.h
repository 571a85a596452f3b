// Samples written as decimal text, as HL7 aECG, CardioSoft and Schiller files hold them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ecg {

constexpr size_t digits_room(size_t n_bytes) { return n_bytes / 2 + 1; }

// The signed integers in a text, as int32 into room for digits_room(text.size()); how many, or -1 where there is
// anything else. White space or one comma, with or without white space, lies between two of them; a comma may follow
// the last. A fraction of zeros, as in "-12.0", is part of an integer; any other is not.
int64_t digits_decode(std::string_view text, int32_t* out);

}  // namespace ecg
