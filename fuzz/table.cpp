// Tables of numbers: a byte for the separator, then the text.
#include "../kernels/table.h"

#include <algorithm>
#include <vector>

#include "input.h"

FUZZ(input) {
    const char separator = ";,\t "[input.take<uint8_t>() % 4];
    const std::string_view text = input.text();
    std::vector<double> out(static_cast<size_t>(std::count(text.begin(), text.end(), separator) +
                                                std::count(text.begin(), text.end(), '\n')));
    const ecg::TableShape shape = ecg::table_numbers(text, separator, out.data(), out.size());
    check(shape.n_rows * shape.n_columns <= out.size() && (shape.n_rows == 0) == (shape.n_columns == 0));
}
