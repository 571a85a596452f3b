// Samples and times of EDF and BDF data records.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ecg {

// Data records of equal size, one after the other.
struct DataRecords {
    const uint8_t* data;
    size_t n_records;
    size_t n_bytes;  // of each
};

// The 16-bit samples of some signals, each signal's in one row: n_samples of them begin at that byte of every record.
void edf_rows(const DataRecords& records, const std::vector<size_t>& begins, size_t n_samples, int16_t* out);

// The same of 24-bit samples.
void edf_rows(const DataRecords& records, const std::vector<size_t>& begins, size_t n_samples, int32_t* out);

// The time in seconds at which each record starts, from the annotation that begins in it at `begin` and ends within
// n_bytes; NaN where there is none.
void edf_onsets(const DataRecords& records, size_t begin, size_t n_bytes, double* out);

}  // namespace ecg
