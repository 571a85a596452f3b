// Every packed WFDB signal format: a byte for the format, then as many samples as the rest holds.
#include "../kernels/wfdb.h"

#include <vector>

#include "input.h"

FUZZ(input) {
    constexpr int kFormats[] = {8, 16, 24, 32, 61, 80, 160, 212, 310, 311};
    const int format = kFormats[input.take<uint8_t>() % std::size(kFormats)];
    size_t n = 0;
    while (ecg::wfdb_bytes(format, n + 1) <= input.n) ++n;
    std::vector<int32_t> out(n);
    ecg::wfdb_unpack(format, input.data, n, out.data());
}
