// EDF and BDF: how data records are laid out, then the records.
#include "../kernels/edf.h"

#include "input.h"

template <class Count>
static void rows(const ecg::DataRecords& records, const std::vector<size_t>& begins, size_t n_samples) {
    std::vector<Count> out(begins.size() * records.n_records * n_samples);
    ecg::edf_rows(records, begins, n_samples, out.data());
}

FUZZ(input) {
    const auto width = static_cast<size_t>(input.between(2, 3)), n_bytes = static_cast<size_t>(input.between(3, 4096));
    const size_t n_samples = static_cast<size_t>(input.between(1, static_cast<int64_t>(n_bytes / width)));
    const auto last = static_cast<int64_t>(n_bytes - width * n_samples);
    std::vector<size_t> begins(static_cast<size_t>(input.between(1, 12)));
    for (size_t& begin : begins) begin = static_cast<size_t>(input.between(0, last));
    const ecg::DataRecords records{input.data, input.n / n_bytes, n_bytes};
    width == 3 ? rows<int32_t>(records, begins, n_samples) : rows<int16_t>(records, begins, n_samples);
    std::vector<double> onsets(records.n_records);
    ecg::edf_onsets(records, begins[0], width * n_samples, onsets.data());
}
