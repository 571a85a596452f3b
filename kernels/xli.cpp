#include "xli.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

namespace ecg {
namespace {

constexpr uint32_t kLastCode = 1022;  // the table is full, and stays as it is; 1023 ends the codes
constexpr size_t kHeader = 8;

constexpr int32_t kStep = 16;

// Sixteen bytes at once, for most strings are shorter.
void copy_step(const uint8_t* from, uint8_t* to) {
    uint8_t held[kStep];
    std::memcpy(held, from, kStep);
    std::memcpy(to, held, kStep);
}

uint32_t byte_at(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// Codes of ten bits, most significant first. No string is stored: each is where the output held it first, and the
// string that a code adds is the one before it and one byte more, which is where it stands already.
class Lzw {
public:
    // The 256 bytes before `out` become the strings of one byte; `out` has room for n bytes and 16 more.
    Lzw(uint8_t* out, size_t n) : begin_(out), end_(out + n) {
        std::iota(begin_ - 256, begin_, uint8_t{0});
        for (uint32_t code = 0; code < 256; ++code) strings_[code] = {static_cast<int32_t>(code) - 256, 1};
    }

    XliStatus decode(std::string_view codes) {
        uint8_t* to = begin_;
        uint32_t n_strings = 256;
        String before{};
        for (size_t bit = 0; bit + 10 <= 8 * codes.size(); bit += 10) {
            const uint32_t pair = byte_at(codes, bit / 8) << 8 | byte_at(codes, bit / 8 + 1);  // bit is even
            const uint32_t code = pair >> (6 - bit % 8) & 0x3FFu;
            if (code > kLastCode) break;
            const bool adds = before.length > 0 && n_strings <= kLastCode;
            if (adds) strings_[n_strings++] = {before.at, before.length + 1};
            if (code >= n_strings) return XliStatus::corrupt;
            const String string = strings_[code];
            if (string.length > end_ - to) return XliStatus::mismatched;
            const uint8_t* from = begin_ + string.at;
            for (int32_t done = 0; done < string.length; done += kStep) copy_step(from + done, to + done);
            if (adds && code + 1 == n_strings) to[string.length - 1] = *to;  // the string that it adds itself
            before = {static_cast<int32_t>(to - begin_), string.length};
            to += string.length;
        }
        return to == end_ ? XliStatus::complete : XliStatus::mismatched;
    }

private:
    struct String {
        int32_t at = 0;  // from the begin of the output
        int32_t length = 0;
    };

    uint8_t* begin_;
    uint8_t* end_;
    std::array<String, kLastCode + 1> strings_;
};

bool fits(uint32_t sample) { return sample + 32768u < 65536u; }

}  // namespace

XliStatus XliPayload::next(XliChunk& chunk) {
    if (rest_.size() < kHeader) return XliStatus::truncated;
    uint32_t length = 0;
    for (size_t i = 4; i-- > 0;) length = length << 8 | byte_at(rest_, i);
    if (length > INT32_MAX) return XliStatus::corrupt;
    if (length > rest_.size() - kHeader) return XliStatus::truncated;
    chunk.codes = rest_.substr(kHeader, length);
    chunk.start = static_cast<int16_t>(byte_at(rest_, 6) | byte_at(rest_, 7) << 8);
    rest_.remove_prefix(kHeader + length);
    return XliStatus::complete;
}

// All high bytes, then all low ones, of d. The first two samples are d's; then x[i] - 2 x[i-1] + x[i-2] is 64 - d[i-1],
// and -start for i = 2.
XliStatus xli_decode(const XliChunk& chunk, size_t n, uint8_t* scratch, int16_t* out) {
    const uint8_t *high = scratch + 256, *low = high + n;
    if (const XliStatus status = Lzw(scratch + 256, 2 * n).decode(chunk.codes); status != XliStatus::complete) {
        return status;
    }
    const auto d = [&](size_t i) { return static_cast<int16_t>(high[i] << 8 | low[i]); };
    for (size_t i = 0; i < std::min<size_t>(n, 2); ++i) out[i] = d(i);
    if (n < 3) return XliStatus::complete;
    uint32_t x = static_cast<uint32_t>(out[1]), step = x - static_cast<uint32_t>(out[0]);  // wrap, and are found out
    uint32_t back = static_cast<uint32_t>(chunk.start);
    bool all_fit = true;
    for (size_t i = 2; i < n; ++i) {
        step -= back;
        x += step;
        all_fit &= fits(x);
        out[i] = static_cast<int16_t>(x);
        back = static_cast<uint32_t>(d(i) - 64);
    }
    return all_fit ? XliStatus::complete : XliStatus::corrupt;
}

bool xli_limb(LimbLead lead, const int16_t* i, const int16_t* ii, const int16_t* iii, size_t n, int16_t* residual) {
    int32_t beyond = 0;
    const auto restore = [&](auto value) {
        for (size_t t = 0; t < n; ++t) {
            const int32_t x = value(t);
            residual[t] = static_cast<int16_t>(x);
            beyond |= x - residual[t];
        }
    };
    switch (lead) {  // >> 1 rounds down
        case LimbLead::iii: restore([=](size_t t) { return ii[t] - i[t] - residual[t]; }); break;
        case LimbLead::avr: restore([=](size_t t) { return -residual[t] - ((i[t] + ii[t]) >> 1); }); break;
        case LimbLead::avl: restore([=](size_t t) { return ((i[t] - iii[t]) >> 1) - residual[t]; }); break;
        case LimbLead::avf: restore([=](size_t t) { return ((ii[t] + iii[t]) >> 1) - residual[t]; }); break;
    }
    return beyond == 0;
}

bool xli_places(const std::vector<int64_t>& rows, const std::vector<int64_t>& limbs, size_t n_rows) {
    const auto is_row = [n_rows](int64_t row) { return row < static_cast<int64_t>(n_rows); };
    if (!std::all_of(rows.begin(), rows.end(), is_row) || limbs.size() != 6) return false;
    if (!std::all_of(limbs.begin(), limbs.end(), is_row)) return false;
    const auto [i, ii, iii, avr, avl, avf] = std::array{limbs[0], limbs[1], limbs[2], limbs[3], limbs[4], limbs[5]};
    return (std::max({iii, avr, avl, avf}) < 0 || std::min(i, ii) >= 0) && (std::max(avl, avf) < 0 || iii >= 0);
}

std::pair<XliStatus, size_t> xli_leads(std::string_view bytes, const std::vector<int64_t>& rows,
                                       const std::vector<int64_t>& limbs, size_t n, int16_t* out) {
    const auto row = [&](int64_t at) { return at < 0 ? nullptr : out + static_cast<size_t>(at) * n; };
    thread_local std::vector<uint8_t> scratch;
    scratch.resize(std::max(scratch.size(), xli_room(n)));
    XliPayload payload(bytes);
    for (size_t k = 0; k < rows.size(); ++k) {
        XliChunk chunk;
        XliStatus status = payload.next(chunk);
        if (status == XliStatus::complete && rows[k] >= 0) status = xli_decode(chunk, n, scratch.data(), row(rows[k]));
        if (status != XliStatus::complete) return {status, k};
    }
    for (size_t limb = 2; limb < limbs.size(); ++limb) {
        int16_t* const residual = row(limbs[limb]);
        const auto lead = static_cast<LimbLead>(limb - 2);
        if (residual && !xli_limb(lead, row(limbs[0]), row(limbs[1]), row(limbs[2]), n, residual)) {
            const auto stored = std::find(rows.begin(), rows.end(), limbs[limb]) - rows.begin();
            return {XliStatus::corrupt, static_cast<size_t>(stored)};
        }
    }
    return {XliStatus::complete, rows.size()};
}

}  // namespace ecg
