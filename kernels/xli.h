// XLI, the compression of Philips cardiographs: a chunk a lead, LZW over the bytes of 16-bit second differences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace ecg {

enum class XliStatus : int {
    complete = 0,
    truncated = 1,   // the payload ends before the lead does
    corrupt = 2,     // a code without a string, or a sample beyond 16 bits
    mismatched = 3,  // more or fewer samples than asked for
};

struct XliChunk {
    std::string_view codes;
    int16_t start = 0;  // what the second difference of the third sample is short of
};

// Walks a payload chunk by chunk: int32 length of the codes, two bytes of no known meaning, int16 start, codes.
class XliPayload {
public:
    explicit XliPayload(std::string_view bytes) : rest_(bytes) {}

    XliStatus next(XliChunk& chunk);

private:
    std::string_view rest_;
};

// Bytes that xli_decode may touch behind scratch for n samples.
constexpr size_t xli_room(size_t n) { return 256 + 2 * n + 16; }

// Exactly n samples of a chunk; scratch has xli_room(n) bytes.
XliStatus xli_decode(const XliChunk& chunk, size_t n, uint8_t* scratch, int16_t* out);

// The limb leads that a file stores as what is left once they are predicted from I, II and III.
enum class LimbLead { iii, avr, avl, avf };

// The lead of its residuals, in place; III is read for aVL and aVF only. False where a sample is beyond 16 bits.
bool xli_limb(LimbLead lead, const int16_t* i, const int16_t* ii, const int16_t* iii, size_t n, int16_t* residual);

// Whether xli_leads may be asked for these rows of an array that has n_rows.
bool xli_places(const std::vector<int64_t>& rows, const std::vector<int64_t>& limbs, size_t n_rows);

// Lead k of a payload goes to row rows[k] of out (row, n), and nowhere if that is negative. `limbs` are the rows of I,
// II, III, aVR, aVL and aVF, negative where absent; the last four, if they are there, are restored from their
// residuals. How that ended, and the lead at which it was known.
std::pair<XliStatus, size_t> xli_leads(std::string_view payload, const std::vector<int64_t>& rows,
                                       const std::vector<int64_t>& limbs, size_t n, int16_t* out);

}  // namespace ecg
