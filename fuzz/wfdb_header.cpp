// The lines of a WFDB header.
#include "../kernels/wfdb_header.h"

#include <algorithm>

#include "input.h"

FUZZ(input) {
    const ecg::WfdbHeader header = ecg::wfdb_header(input.text());
    int64_t n_signals = 0;
    for (const ecg::WfdbFile& file : header.files) n_signals += file.n_signals;
    check(n_signals == static_cast<int64_t>(header.initial.size()) && header.initial.size() == header.checksums.size());
    const int64_t n_ends = std::count(header.layout.begin(), header.layout.end(), '\n');
    check(n_ends == std::max<int64_t>(n_signals - 1, 0));
}
