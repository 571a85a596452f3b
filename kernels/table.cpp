#include "table.h"

#include <charconv>

namespace ecg {
namespace {

const char* skip_blanks(const char* p, const char* end) {
    while (p < end && (*p == ' ' || *p == '\r')) ++p;
    return p;
}

// The numbers of one line into out, which has room for n; how many, 0 where it is no line of numbers. `p` is left
// where the line ends.
size_t line_numbers(const char*& p, const char* end, char separator, double* out, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        p = skip_blanks(p, end);
        if (p < end && *p == '+' && (p + 1 == end || p[1] != '-')) ++p;
        const auto [stopped, error] = std::from_chars(p, end, out[i]);
        if (error != std::errc{}) return 0;
        p = skip_blanks(stopped, end);
        if (p == end || *p == '\n') return i + 1;
        if (separator == ' ' ? p == stopped : *p++ != separator) return 0;
    }
    return 0;
}

}  // namespace

TableShape table_numbers(std::string_view text, char separator, double* out, size_t n) {
    const char *p = text.data(), *end = p + text.size();
    TableShape shape{0, 0};
    for (size_t done = 0;;) {
        p = skip_blanks(p, end);
        if (p == end) return shape;
        if (*p == '\n') {
            ++p;
            continue;
        }
        const size_t found = line_numbers(p, end, separator, out + done, n - done);
        if (found == 0 || (shape.n_rows > 0 && found != shape.n_columns)) return {0, 0};
        shape = {shape.n_rows + 1, found};
        done += found;
    }
}

}  // namespace ecg
