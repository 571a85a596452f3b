// Tables of decimal numbers in text.
#pragma once

#include <cstddef>
#include <string_view>

namespace ecg {

struct TableShape {
    size_t n_rows;
    size_t n_columns;
};

// The numbers of a text of equally long lines, line after line, into out, which has room for n. Between them stands
// the separator, or any number of blanks where that is a blank; blank lines do not count. {0, 0} where a field is no
// number, lines differ in length, or there are more than n.
TableShape table_numbers(std::string_view text, char separator, double* out, size_t n);

}  // namespace ecg
