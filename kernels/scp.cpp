#include "scp.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace ecg {
namespace {

constexpr size_t kDefaultTable = 19999;
constexpr size_t kMostTables = 64;  // real files have one or two
constexpr size_t kCodeBytes = 9;
constexpr int kMostExtraBits = 25;  // with a prefix of 32 bits, and 7 that are skipped, what one load holds
constexpr size_t kMostPadding = 3;  // bytes after a lead's last sample, to an even or a fourfold address

uint32_t word(const uint8_t* p) { return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8; }

uint64_t big_endian(const uint8_t* p) {
    uint64_t v;
    std::memcpy(&v, p, 8);
    if constexpr (std::endian::native == std::endian::little) {
        v = (v & 0x00FF00FF00FF00FFu) << 8 | (v >> 8 & 0x00FF00FF00FF00FFu);
        v = (v & 0x0000FFFF0000FFFFu) << 16 | (v >> 16 & 0x0000FFFF0000FFFFu);
        v = v << 32 | v >> 32;
    }
    return v;
}

// At least 57 bits from a bit on, the first one highest; zeros beyond the end.
uint64_t bits_from(const uint8_t* data, size_t n_bytes, size_t bit) {
    const size_t at = bit / 8;
    if (at + 8 <= n_bytes) return big_endian(data + at) << bit % 8;
    uint8_t last[8] = {};
    if (at < n_bytes) std::memcpy(last, data + at, n_bytes - at);
    return big_endian(last) << bit % 8;
}

// The table of EN 1064, annex C: k ones, a zero and a sign for ±k to 8; nine ones and a bit for 8 or 16 plain bits.
std::vector<std::array<int, 4>> default_codes() {
    std::vector<std::array<int, 4>> codes{{0, 1, 0, 0}};  // prefix, its bits, extra bits, value
    for (int k = 1; k <= 8; ++k) {
        const int ones = (1 << (k + 2)) - 4;
        codes.push_back({ones, k + 2, 0, k});
        codes.push_back({ones | 1, k + 2, 0, -k});
    }
    codes.push_back({0x3FE, 10, 8, 0});
    codes.push_back({0x3FF, 10, 16, 0});
    return codes;
}

uint32_t reversed(uint32_t v) {
    uint32_t r = 0;
    for (int i = 0; i < 32; ++i) r |= (v >> i & 1u) << (31 - i);
    return r;
}

void integrate(ScpEncoding encoding, size_t n, int16_t* x) {
    if (encoding == ScpEncoding::amplitudes || n < 2) return;
    const bool is_second = encoding == ScpEncoding::second_differences;
    uint32_t value = static_cast<uint16_t>(x[is_second ? 1 : 0]);
    uint32_t slope = value - static_cast<uint16_t>(x[0]);
    for (size_t i = is_second ? 2 : 1; i < n; ++i) {
        const uint32_t d = static_cast<uint16_t>(x[i]);
        slope = is_second ? slope + d : d;
        value += slope;
        x[i] = static_cast<int16_t>(value);
    }
}

// The samples of one lead as stored; the bytes that held them, or -1.
int64_t stored(const uint8_t* data, size_t n_bytes, const ScpTables* tables, size_t n, int16_t* out) {
    if (tables) return tables->decode(data, n_bytes, n, out);
    if (n > n_bytes / 2) return -1;
    for (size_t i = 0; i < n; ++i) out[i] = static_cast<int16_t>(word(data + 2 * i));
    return static_cast<int64_t>(2 * n);
}

bool is_padding(const uint8_t* p, size_t n) {
    return n <= kMostPadding || std::all_of(p, p + n, [](uint8_t byte) { return byte == 0; });
}

}  // namespace

bool ScpTables::parse(const uint8_t* data, size_t n) {
    tables_.clear();
    if (n < 2) return false;
    const size_t n_tables = word(data);
    if (n_tables == kDefaultTable) {
        Table table;
        for (const auto& [prefix, bits, extra, value] : default_codes()) {
            table.codes.push_back({static_cast<uint32_t>(prefix) << (32 - bits), static_cast<uint8_t>(bits),
                                   static_cast<uint8_t>(extra), false, value});
        }
        tables_.push_back(std::move(table));
        return tables_[0].complete();
    }
    if (n_tables < 1 || n_tables > kMostTables) return false;
    const uint8_t* p = data + 2;
    for (size_t t = 0; t < n_tables; ++t) {
        const auto left = static_cast<size_t>(data + n - p);
        if (left < 2 || (left - 2) / kCodeBytes < word(p)) return false;
        Table table;
        table.codes.resize(word(p));
        p += 2;
        for (Code& code : table.codes) {
            if (!code.parse(p, n_tables)) return false;
            p += kCodeBytes;
        }
        if (!table.complete()) return false;
        tables_.push_back(std::move(table));
    }
    return true;
}

// Bits of the prefix, bits of the whole code, mode, value, and the prefix, its first bit the lowest.
bool ScpTables::Code::parse(const uint8_t* p, size_t n_tables) {
    const int extra = p[1] - p[0];
    if (p[0] < 1 || p[0] > 32 || extra < 0 || extra > kMostExtraBits) return false;
    prefix = reversed(word(p + 5) | word(p + 7) << 16) & ~uint32_t{0} << (32 - p[0]);
    prefix_bits = p[0];
    extra_bits = static_cast<uint8_t>(extra);
    is_switch = p[2] == 0;
    value = static_cast<int16_t>(word(p + 3)) - (is_switch ? 1 : 0);
    return !is_switch || (value >= 0 && static_cast<size_t>(value) < n_tables);
}

// Sorts the codes and fills the windows; false where one code begins another.
bool ScpTables::Table::complete() {
    std::sort(codes.begin(), codes.end(), [](const Code& a, const Code& b) { return a.prefix < b.prefix; });
    for (size_t i = 1; i < codes.size(); ++i) {
        const Code &a = codes[i - 1], &b = codes[i];
        const int shared = std::min(a.prefix_bits, b.prefix_bits);
        if ((a.prefix ^ b.prefix) >> (32 - shared) == 0) return false;
    }
    windows.resize(size_t{1} << kWindow);
    for (size_t w = 0; w < windows.size(); ++w) {
        Window window{};
        uint32_t bits = static_cast<uint32_t>(w) << (32 - kWindow);
        while (window.n_values < 3) {
            const Code* code = find(bits);
            if (!code || code->is_switch || code->extra_bits || window.n_bits + code->prefix_bits > kWindow) break;
            window.values[window.n_values++] = static_cast<int16_t>(code->value);
            window.n_bits += code->prefix_bits;
            bits <<= code->prefix_bits;
        }
        windows[w] = window;
    }
    return true;
}

const ScpTables::Code* ScpTables::Table::find(uint32_t bits) const {
    const auto after = std::upper_bound(codes.begin(), codes.end(), bits,
                                        [](uint32_t value, const Code& code) { return value < code.prefix; });
    if (after == codes.begin()) return nullptr;
    const Code& code = *(after - 1);
    return (code.prefix ^ bits) >> (32 - code.prefix_bits) == 0 ? &code : nullptr;
}

int64_t ScpTables::decode(const uint8_t* data, size_t n_bytes, size_t n, int16_t* out) const {
    const Table* table = &tables_[0];
    const size_t n_bits = 8 * n_bytes;
    size_t bit = 0, i = 0;
    while (i < n) {
        while (i + 15 <= n && bit / 8 + 8 <= n_bytes) {
            uint64_t bits = big_endian(data + bit / 8) << bit % 8;
            const Window* window = nullptr;
            for (int k = 0; k < 5; ++k) {  // 5 windows of 11 bits: 55 of the 57
                window = &table->windows[bits >> (64 - kWindow)];
                std::memcpy(out + i, window->values.data(), sizeof(window->values));
                i += window->n_values;
                bits <<= window->n_bits;
                bit += window->n_bits;
            }
            if (!window->n_values) break;
        }
        if (i == n) break;
        const uint64_t bits = bits_from(data, n_bytes, bit);
        const Code* code = table->find(static_cast<uint32_t>(bits >> 32));
        if (!code) return -1;
        bit += code->prefix_bits + code->extra_bits;
        if (bit > n_bits) return -1;
        if (code->is_switch) {
            table = &tables_[static_cast<size_t>(code->value)];
            continue;
        }
        int64_t value = code->value;
        if (code->extra_bits) {
            value += static_cast<int64_t>(bits << code->prefix_bits) >> (64 - code->extra_bits);
        }
        out[i++] = static_cast<int16_t>(value);
    }
    return static_cast<int64_t>((bit + 7) / 8);
}

size_t scp_leads(const uint8_t* data, size_t n_bytes, const ScpTables* tables, ScpEncoding encoding,
                 const std::vector<ScpLead>& leads, size_t n_time, int16_t* out) {
    std::vector<int16_t> scratch;
    size_t done = 0;
    for (const ScpLead& lead : leads) {
        const auto n = static_cast<size_t>(lead.n_samples);
        int16_t* row = out + static_cast<size_t>(std::max<int64_t>(lead.row, 0)) * n_time;
        if (lead.row < 0) {
            scratch.resize(n);
            row = scratch.data();
        }
        auto length = static_cast<size_t>(lead.n_bytes);
        int64_t used = stored(data, std::min(length, n_bytes), tables, n, row);
        if (used < 0 && n_bytes > 0xFFFF) {  // more bytes than 16 bits can say: what they say is the remainder
            used = stored(data, n_bytes, tables, n, row);
            if (used <= 0xFFFF) return done;
            const size_t over = static_cast<size_t>(used) - length;
            length += (over + 0xFFFF) / 0x10000 * 0x10000;
        }
        if (used < 0 || length > n_bytes) return done;
        if (!is_padding(data + used, length - static_cast<size_t>(used))) return done;
        integrate(encoding, n, row);
        data += length;
        n_bytes -= length;
        ++done;
    }
    return done;
}

}  // namespace ecg
