// The lines of a WFDB header (header(5) of the WFDB manual), what is the same in a whole archive kept apart.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ecg {

constexpr int64_t kAbsent = INT64_MAX, kNoNumber = INT64_MIN;

// Signal lines one after the other that name the same file.
struct WfdbFile {
    std::string_view name;
    int64_t n_signals;
};

struct WfdbHeader {
    std::string_view record_line;  // empty where there is none
    std::vector<WfdbFile> files;
    std::string layout;              // a line for every signal: format, gain, zero and description, tabs between
    std::vector<int64_t> initial;    // one a signal: initial value, the ADC's zero unless stated, or kNoNumber
    std::vector<int64_t> checksums;  // one a signal: modulo 65536, kAbsent or kNoNumber
};

// Comments and blank lines are passed over; of the signal lines there may be fewer than the record line says.
WfdbHeader wfdb_header(std::string_view text);

}  // namespace ecg
