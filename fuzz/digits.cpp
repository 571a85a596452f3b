// Integers in text; what they are survives to be written and read again.
#include "../kernels/digits.h"

#include <string>
#include <vector>

#include "input.h"

FUZZ(input) {
    std::vector<int32_t> out(ecg::digits_room(input.n));
    const int64_t n = ecg::digits_decode(input.text(), out.data());
    if (n < 0) return;
    check(static_cast<size_t>(n) <= out.size());
    out.resize(static_cast<size_t>(n));
    std::string text;
    for (const int32_t value : out) text += std::to_string(value) + ',';
    std::vector<int32_t> again(ecg::digits_room(text.size()));
    check(ecg::digits_decode(text, again.data()) == n && std::equal(out.begin(), out.end(), again.begin()));
}
