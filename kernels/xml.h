// Where the wanted elements of an XML document lie. No entity is ever resolved, nothing recurses, nothing is copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ecg {

enum class XmlStatus : int { complete = 0, truncated = 1, malformed = 2, entities = 3 };

// One wanted element: its start tag text[tag, begin), and its content text[begin, end), markup inside it included.
struct XmlSpan {
    int64_t path = 0;
    int64_t begin = 0;
    int64_t end = 0;
    int64_t tag = 0;
};

// Name of the root element, as soon as the prolog ends; empty unless the status is complete.
XmlStatus xml_root(std::string_view text, std::string_view& name, size_t& stopped_at);

class XmlPaths {
public:
    // Paths from the root, such as "RestingECG/Waveform/WaveformType"; a span names its path by index. A name has no
    // namespace prefix: that of a document's root, whatever it is, is no part of the names in it.
    explicit XmlPaths(const std::vector<std::string>& paths);

    // Spans in the order of their start tags; `stopped_at` is the byte at which a bad document was left.
    XmlStatus scan(std::string_view text, std::vector<XmlSpan>& spans, size_t& stopped_at) const;

private:
    struct Node {
        std::string name;
        int64_t path = -1;
        std::vector<int> children;
    };

    int child(int node, std::string_view name) const;

    std::vector<Node> nodes_;
};

// The contents of the elements in one row of a table.
struct XmlRow {
    std::string contents;  // of the columns between the first and the last, NUL between them
    int64_t begin = 0;     // of the row's own content
    int64_t payload_begin = 0, payload_end = 0;  // of the last column's
};

// Spans of the first n_columns paths as a table: a row for each element at the first one, with the contents of those at
// the others that follow it; of several at one path the last. n_columns >= 2.
std::vector<XmlRow> xml_rows(std::string_view text, const std::vector<XmlSpan>& spans, int64_t n_columns);

}  // namespace ecg
