#include "digits.h"

#include <bit>
#include <cstring>

namespace ecg {
namespace {

constexpr int64_t kMax = INT32_MAX;
constexpr uint64_t kOnes = 0x0101010101010101u;

bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }
bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

const char* skip_space(const char* p, const char* end) {
    while (p < end && is_space(*p)) ++p;
    return p;
}

// The eight bytes at p, the first one lowest.
uint64_t eight(const char* p) {
    uint64_t bytes;
    std::memcpy(&bytes, p, 8);
    if constexpr (std::endian::native == std::endian::big) bytes = __builtin_bswap64(bytes);
    return bytes;
}

// The top bit of every byte that is no digit.
uint64_t others(uint64_t bytes) {
    const uint64_t low = bytes ^ (kOnes * '0');  // 0 to 9 where there is a digit
    return (low | ((low & (kOnes * 0x7F)) + kOnes * 0x76)) & (kOnes * 0x80);
}

// The number that is left where the eight lowest digits are bytes, the last one highest.
uint64_t number(uint64_t digits) {
    digits = (digits * 10 + (digits >> 8)) & 0x00FF00FF00FF00FFu;
    digits = (digits * 100 + (digits >> 16)) & 0x0000FFFF0000FFFFu;
    return (digits * 10000 + (digits >> 32)) & 0xFFFFFFFFu;
}

// Numbers of a few digits with one separator behind each, all but a few of a file's; no branch on their length or
// sign. Returns where something else begins.
const char* short_numbers(const char* p, const char* end, int32_t*& to, bool& has_comma) {
    while (end - p >= 8) {
        const uint64_t bytes = eight(p);
        const uint64_t other = others(bytes);
        const uint64_t has_sign = (other >> 7) & 1;  // a first byte that is no digit, to be a minus
        const uint64_t ends = other & ~uint64_t{0xFF};
        const int length = std::countr_zero(ends) & ~7;  // in bits, sign included; 64 where nothing ends
        if (length == 64 || (has_sign && (*p != '-' || length == 8))) break;
        const char separator = p[length / 8];
        if (separator != ',' && !is_space(separator)) break;
        const uint64_t digits = bytes & (kOnes * 0x0F) & ~(has_sign * 0xFF);
        const auto magnitude = static_cast<int32_t>(number(digits << (64 - length)));
        const auto sign = -static_cast<int32_t>(has_sign);
        *to++ = (magnitude ^ sign) - sign;
        has_comma = separator == ',';
        p += length / 8 + 1;
    }
    return p;
}

// One number of any length and spelling; where it ends, or null where there is none or it has no room in an int32.
const char* any_number(const char* p, const char* end, int32_t& out) {
    const bool negative = *p == '-';
    p += negative || *p == '+';
    if (p == end || !is_digit(*p)) return nullptr;
    int64_t magnitude = 0;
    for (; p < end && is_digit(*p); ++p) {
        magnitude = magnitude * 10 + (*p - '0');
        if (magnitude > kMax + negative) return nullptr;
    }
    if (p < end && *p == '.') {
        while (++p < end && *p == '0') {
        }
    }
    out = static_cast<int32_t>(negative ? -magnitude : magnitude);
    return p;
}

}  // namespace

int64_t digits_decode(std::string_view text, int32_t* out) {
    const char* p = text.data();
    const char* const end = p + text.size();
    int32_t* to = out;
    bool has_comma = true;  // none may lead
    while (true) {
        p = skip_space(p, end);
        if (p < end && *p == ',') {
            if (has_comma) return -1;
            has_comma = true;
            p = skip_space(p + 1, end);
        }
        if (p == end) return to - out;
        const char* const from = p;
        p = short_numbers(p, end, to, has_comma);
        if (p != from) continue;
        p = any_number(p, end, *to++);
        if (!p || (p < end && *p != ',' && !is_space(*p))) return -1;
        has_comma = false;
    }
}

}  // namespace ecg
