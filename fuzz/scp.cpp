// SCP-ECG: encoding, where the leads go, the Huffman tables, then the streams.
#include "../kernels/scp.h"

#include "input.h"

FUZZ(input) {
    const auto encoding = static_cast<ecg::ScpEncoding>(input.between(0, 2));
    const auto n_time = static_cast<size_t>(input.between(0, 6000));
    const int64_t n_leads = input.between(1, 12), n_rows = input.between(1, 12);
    std::vector<ecg::ScpLead> leads;
    for (int64_t k = 0; k < n_leads; ++k) {
        const int64_t row = input.between(-1, n_rows - 1), n_samples = input.between(0, 6000);
        leads.push_back({row < 0 ? n_samples : static_cast<int64_t>(n_time), input.take<uint16_t>(), row});
    }
    const size_t n_tables = std::min<size_t>(input.take<uint16_t>(), input.n);
    ecg::ScpTables tables;
    if (n_tables && !tables.parse(input.data, n_tables)) return;
    input.data += n_tables;
    input.n -= n_tables;
    for (const ecg::ScpLead& lead : leads) {
        if (static_cast<size_t>(lead.n_samples) > 8 * input.n) return;  // a sample takes a bit
    }
    std::vector<int16_t> out(static_cast<size_t>(n_rows) * n_time);
    const ecg::ScpTables* used = n_tables ? &tables : nullptr;
    check(ecg::scp_leads(input.data, input.n, used, encoding, leads, n_time, out.data()) <= leads.size());
}
