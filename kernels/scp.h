// Leads of SCP-ECG (EN 1064): Huffman bit streams or plain int16, of amplitudes or of their differences.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ecg {

// The Huffman tables of section 2. A stream begins with the first one; some codes go on with another.
class ScpTables {
public:
    // Of the content of section 2: 19999 for the default table, or the tables. False where it is not a set of tables.
    bool parse(const uint8_t* data, size_t n);

    // n samples from the front of a stream. The bytes that held them, or -1 where it ends early or no code fits.
    int64_t decode(const uint8_t* data, size_t n_bytes, size_t n, int16_t* out) const;

private:
    struct Code {
        uint32_t prefix;  // its first bit is the highest
        uint8_t prefix_bits;
        uint8_t extra_bits;  // after the prefix: a signed number, which is added to the value
        bool is_switch;
        int32_t value;  // or the index of the table to go on with

        bool parse(const uint8_t* p, size_t n_tables);
    };
    static constexpr int kWindow = 11;  // bits, so that a table's windows take 16 KiB of cache
    struct Window {
        std::array<int16_t, 3> values;
        uint8_t n_values;  // 0: the first code is a switch, or longer than the window, or has extra bits
        uint8_t n_bits;
    };
    struct Table {
        std::vector<Code> codes;  // by prefix
        std::vector<Window> windows;

        const Code* find(uint32_t bits) const;
        bool complete();
    };

    std::vector<Table> tables_;
};

struct ScpLead {
    int64_t n_samples;
    int64_t n_bytes;  // as stored in 16 bits: modulo 65536
    int64_t row;      // where it goes, or negative: left alone
};

enum class ScpEncoding : int { amplitudes = 0, first_differences = 1, second_differences = 2 };

// Lead after lead of data; out has n_time samples a row. How many could be decoded: all, or up to the first damaged.
// Without tables, samples are int16. Arithmetic is modulo 65536, as that of the encoders.
size_t scp_leads(const uint8_t* data, size_t n_bytes, const ScpTables* tables, ScpEncoding encoding,
                 const std::vector<ScpLead>& leads, size_t n_time, int16_t* out);

}  // namespace ecg
