#include "edf.h"

#include <charconv>
#include <cstring>
#include <limits>

namespace ecg {
namespace {

constexpr size_t kShort = 32;  // samples that a loop moves sooner than memcpy is called

void move(const uint8_t* from, size_t n, int16_t* to) {
    if (n >= kShort) {
        std::memcpy(to, from, 2 * n);
        return;
    }
    for (size_t i = 0; i < n; ++i) std::memcpy(to + i, from + 2 * i, 2);
}

void move(const uint8_t* from, size_t n, int32_t* to) {
    for (size_t i = 0; i < n; ++i, from += 3) {
        const uint32_t high = static_cast<uint32_t>(from[0]) << 8 | static_cast<uint32_t>(from[1]) << 16 |
                              static_cast<uint32_t>(from[2]) << 24;
        to[i] = static_cast<int32_t>(high) >> 8;
    }
}

template <class Count>
void rows(const DataRecords& records, const std::vector<size_t>& begins, size_t n_samples, Count* out) {
    for (const size_t begin : begins) {
        const uint8_t* from = records.data + begin;
        if (n_samples == 1) {
            for (size_t r = 0; r < records.n_records; ++r) move(from + r * records.n_bytes, 1, out + r);
        } else {
            Count* to = out;
            for (size_t r = 0; r < records.n_records; ++r, to += n_samples) {
                move(from + r * records.n_bytes, n_samples, to);
            }
        }
        out += records.n_records * n_samples;
    }
}

// The decimal number of a time-keeping annotation: a sign, digits, and 0x14 twice.
double onset(const char* from, const char* end) {
    const double none = std::numeric_limits<double>::quiet_NaN();
    if (from == end || (*from != '+' && *from != '-')) return none;
    double seconds = 0;
    const auto [stopped, error] = std::from_chars(from + 1, end, seconds, std::chars_format::fixed);
    if (error != std::errc{} || end - stopped < 2 || stopped[0] != '\x14' || stopped[1] != '\x14') return none;
    return *from == '-' ? -seconds : seconds;
}

}  // namespace

void edf_rows(const DataRecords& records, const std::vector<size_t>& begins, size_t n_samples, int16_t* out) {
    rows(records, begins, n_samples, out);
}

void edf_rows(const DataRecords& records, const std::vector<size_t>& begins, size_t n_samples, int32_t* out) {
    rows(records, begins, n_samples, out);
}

void edf_onsets(const DataRecords& records, size_t begin, size_t n_bytes, double* out) {
    const char* from = reinterpret_cast<const char*>(records.data) + begin;
    for (size_t r = 0; r < records.n_records; ++r, from += records.n_bytes) out[r] = onset(from, from + n_bytes);
}

}  // namespace ecg
