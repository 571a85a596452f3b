#include "wfdb_header.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace ecg {
namespace {

constexpr size_t kFields = 9;  // file, format, gain, resolution, zero, initial value, checksum, block size, description

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\v' || c == '\f'; }

// The text up to the next space, or to the end of the line for the last field; `line` moves on behind it.
std::string_view field(std::string_view& line, bool is_last = false) {
    size_t begin = 0;
    while (begin < line.size() && is_space(line[begin])) ++begin;
    size_t end = begin;
    while (end < line.size() && (is_last || !is_space(line[end]))) ++end;
    const std::string_view found = line.substr(begin, end - begin);
    line.remove_prefix(end);
    return found;
}

// The next line that says something and is no comment; empty at the end of the text.
std::string_view line(std::string_view& text) {
    while (!text.empty()) {
        size_t end = 0;
        while (end < text.size() && text[end] != '\n' && text[end] != '\r') ++end;
        const std::string_view found = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (!found.empty() && found[0] != '#' && !std::all_of(found.begin(), found.end(), is_space)) return found;
    }
    return {};
}

int64_t number(std::string_view text) {
    if (text.substr(0, 1) == "+" && text.substr(1, 1) != "-") text.remove_prefix(1);
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? value : kNoNumber;
}

}  // namespace

WfdbHeader wfdb_header(std::string_view text) {
    WfdbHeader header;
    header.record_line = line(text);
    std::string_view rest = header.record_line;
    field(rest);
    const int64_t n_signals = number(field(rest));
    for (int64_t i = 0; i < n_signals; ++i) {
        std::string_view signal = line(text);
        if (signal.empty()) break;
        std::array<std::string_view, kFields> fields;
        for (size_t k = 0; k < kFields; ++k) fields[k] = field(signal, k == kFields - 1);
        const auto [file, format, gain, resolution, zero, initial, checksum, block, description] = fields;
        if (header.files.empty() || header.files.back().name != file) header.files.push_back({file, 0});
        ++header.files.back().n_signals;
        if (i > 0) header.layout += '\n';
        for (const std::string_view part : {format, gain, zero}) header.layout.append(part) += '\t';
        header.layout += description;
        header.initial.push_back(initial.empty() && zero.empty() ? 0 : number(initial.empty() ? zero : initial));
        const int64_t sum = number(checksum);
        header.checksums.push_back(checksum.empty() ? kAbsent : sum == kNoNumber ? kNoNumber : sum & 0xFFFF);
    }
    return header;
}

}  // namespace ecg
