// Where the wanted elements of a DICOM data set lie (PS3.5, chapter 7). Nothing recurses, nothing is copied, and the
// values of all other elements are passed over unread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace ecg {

enum class DicomStatus : int { complete = 0, truncated = 1, malformed = 2 };

struct DicomEncoding {
    bool explicit_vr;
    bool big_endian;
};

// The value of one wanted element, or the content of a wanted item: data[begin, end).
struct DicomSpan {
    int64_t path;
    int64_t begin;
    int64_t end;
};

class DicomPaths {
public:
    // Paths of tags (group * 65536 + element) in which an item is the tag FFFE,E000; a span names its path by index.
    // Paths that begin with an item are those of a sequence's value, all others of a data set.
    explicit DicomPaths(const std::vector<std::vector<uint32_t>>& paths);

    // Spans in the order of their beginnings; `stopped_at` is the byte at which bad data were left.
    DicomStatus scan(std::string_view data, size_t begin, DicomEncoding encoding, std::vector<DicomSpan>& spans,
                     size_t& stopped_at) const;

private:
    friend class DicomScan;

    struct Node {
        uint32_t tag = 0;
        int64_t path = -1;
        std::vector<int> children;
    };

    int child(int node, uint32_t tag) const;

    std::vector<Node> nodes_;
};

}  // namespace ecg
