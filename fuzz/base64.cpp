// Base64, held to a decoder of a few lines.
#include "../kernels/base64.h"

#include <vector>

#include "input.h"

static int64_t plain(std::string_view text, std::vector<uint8_t>& out) {
    constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    size_t n = 0, n_pads = 0;
    for (const char c : text) {
        if (std::string_view(" \t\r\n").find(c) != std::string_view::npos) continue;
        const size_t value = c == '=' ? 0 : kAlphabet.find(c);
        if (value == std::string_view::npos || (c != '=' && n_pads > 0)) return -1;
        n_pads += c == '=';
        bits = bits << 6 | static_cast<uint32_t>(value);
        if (++n % 4 == 0) out.insert(out.end(), {uint8_t(bits >> 16), uint8_t(bits >> 8), uint8_t(bits)});
    }
    const size_t left = n % 4;
    if (n_pads > 2 || (n_pads > 0 && left != 0) || left == 1) return -1;
    if (left >= 2) out.push_back(uint8_t(bits >> (6 * left - 8)));
    if (left == 3) out.push_back(uint8_t(bits >> 2));
    out.resize(out.size() - n_pads);
    return static_cast<int64_t>(out.size());
}

FUZZ(input) {
    std::vector<uint8_t> out(ecg::base64_room(input.n)), expected;
    const int64_t n = ecg::base64_decode(input.data, input.n, out.data());
    check(n == plain(input.text(), expected));
    check(n < 0 || std::equal(expected.begin(), expected.end(), out.begin()));
}
