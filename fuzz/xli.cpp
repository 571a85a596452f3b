// Philips XLI: samples a lead, where its leads go, then the payload.
#include "../kernels/xli.h"

#include "input.h"

FUZZ(input) {
    const auto n = static_cast<size_t>(input.between(1, 6000));
    std::vector<int64_t> rows(static_cast<size_t>(input.between(1, 12))), limbs(6);
    const auto n_rows = static_cast<int64_t>(rows.size());
    for (int64_t& row : rows) row = input.between(-1, n_rows - 1);
    for (int64_t& row : limbs) row = input.between(-1, n_rows - 1);
    if (!ecg::xli_places(rows, limbs, rows.size())) return;
    std::vector<int16_t> out(rows.size() * n);
    const auto [status, lead] = ecg::xli_leads(input.text(), rows, limbs, n, out.data());
    check((status == ecg::XliStatus::complete) == (lead == rows.size()) || status == ecg::XliStatus::corrupt);
}
