#include "dicom.h"

#include <algorithm>

namespace ecg {
namespace {

constexpr uint32_t kItem = 0xFFFEE000, kItemEnd = 0xFFFEE00D, kSequenceEnd = 0xFFFEE0DD;
constexpr uint32_t kUndefined = 0xFFFFFFFF;
constexpr size_t kMaxDepth = 64;         // real waveform objects stay under 10
constexpr size_t kMaxSpans = 64 * 1024;  // likewise under 300
constexpr size_t kNoSpan = ~size_t{0};

constexpr uint16_t vr(const char (&name)[3]) { return static_cast<uint16_t>(name[0] << 8 | name[1]); }

constexpr uint16_t kLong[] = {vr("OB"), vr("OD"), vr("OF"), vr("OL"), vr("OV"), vr("OW"), vr("SQ"),
                              vr("SV"), vr("UC"), vr("UN"), vr("UR"), vr("UT"), vr("UV")};
constexpr uint16_t kShort[] = {vr("AE"), vr("AS"), vr("AT"), vr("CS"), vr("DA"), vr("DS"), vr("DT"),
                               vr("FD"), vr("FL"), vr("IS"), vr("LO"), vr("LT"), vr("PN"), vr("SH"),
                               vr("SL"), vr("SS"), vr("ST"), vr("TM"), vr("UI"), vr("UL"), vr("US")};

template <size_t N>
bool among(const uint16_t (&names)[N], uint16_t name) {
    return std::find(names, names + N, name) != names + N;
}

// The header of an element, an item or a delimiter.
struct Header {
    uint32_t tag = 0;
    uint16_t vr = 0;  // 0 where the encoding has none
    uint32_t length = 0;
    size_t n_bytes = 0;
};

// A data set, an item's or the whole one, or the value of a sequence.
struct Frame {
    size_t end;  // of the bytes that it may take; where it ends if `is_defined`
    bool is_defined;
    bool is_sequence;
    bool is_fragments;  // a sequence whose items hold bytes, not data sets
    DicomEncoding encoding;
    int node;     // -1 where nothing is wanted
    size_t span;  // to be ended with it
};

}  // namespace

class DicomScan {
public:
    DicomScan(const DicomPaths& paths, std::string_view data, std::vector<DicomSpan>& spans)
        : paths_(paths), data_(data), spans_(spans) {}

    DicomStatus run(size_t begin, DicomEncoding encoding) {
        at = begin;
        const bool is_sequence = paths_.child(0, kItem) >= 0;
        frames_.push_back({data_.size(), true, is_sequence, false, encoding, 0, kNoSpan});
        DicomStatus status = DicomStatus::complete;
        while (status == DicomStatus::complete && !frames_.empty()) status = step();
        return status;
    }

    size_t at = 0;

private:
    uint32_t number(size_t from, int n_bytes, bool big_endian) const {
        uint32_t value = 0;
        for (int i = 0; i < n_bytes; ++i) {
            const size_t byte = from + static_cast<size_t>(big_endian ? i : n_bytes - 1 - i);
            value = value << 8 | static_cast<uint8_t>(data_[byte]);
        }
        return value;
    }

    // What it means that a frame's bytes do not suffice.
    static DicomStatus short_of(const Frame& frame, size_t size) {
        return frame.end == size ? DicomStatus::truncated : DicomStatus::malformed;
    }

    DicomStatus header(const Frame& frame, Header& found) const {
        const size_t room = frame.end - at;
        const bool big = frame.encoding.big_endian;
        if (room < 8) return short_of(frame, data_.size());
        found.tag = number(at, 2, big) << 16 | number(at + 2, 2, big);
        found.n_bytes = 8;
        if (found.tag >> 16 == 0xFFFE || !frame.encoding.explicit_vr) {
            found.length = number(at + 4, 4, big);
            return DicomStatus::complete;
        }
        found.vr = static_cast<uint16_t>(number(at + 4, 2, true));
        if (among(kShort, found.vr)) {
            found.length = number(at + 6, 2, big);
            return DicomStatus::complete;
        }
        if (!among(kLong, found.vr)) return DicomStatus::malformed;
        if (room < 12) return short_of(frame, data_.size());
        found.length = number(at + 8, 4, big);
        found.n_bytes = 12;
        return DicomStatus::complete;
    }

    DicomStatus step() {
        const Frame frame = frames_.back();
        if (at == frame.end && frame.is_defined) return leave(0);
        Header next;
        if (frames_.size() == 1) {
            const size_t n_zeros = std::min(data_.find_first_not_of('\0', at), data_.size()) - at;
            if (at + n_zeros == data_.size()) return leave(n_zeros);  // as some archives fill their blocks
            if (n_zeros >= 4) return DicomStatus::malformed;          // no tag, and not to be looked at time and again
        }
        if (const DicomStatus status = header(frame, next); status != DicomStatus::complete) return status;
        if (next.tag == kItemEnd || next.tag == kSequenceEnd) {
            const bool ends_it = !frame.is_defined && frame.is_sequence == (next.tag == kSequenceEnd);
            return ends_it && next.length == 0 ? leave(next.n_bytes) : DicomStatus::malformed;
        }
        if (frame.is_sequence != (next.tag == kItem)) return DicomStatus::malformed;
        return next.length == kUndefined ? enter_undefined(frame, next) : pass(frame, next);
    }

    DicomStatus leave(size_t n_bytes) {
        if (frames_.back().span != kNoSpan) spans_[frames_.back().span].end = static_cast<int64_t>(at);
        frames_.pop_back();
        at += n_bytes;
        return DicomStatus::complete;
    }

    DicomStatus enter_undefined(const Frame& frame, const Header& next) {
        const bool has_bytes = next.vr == vr("OB") || next.vr == vr("OW");
        const bool may_be = frame.is_sequence || next.vr == 0 || next.vr == vr("SQ") || next.vr == vr("UN") || has_bytes;
        if (!may_be || frame.is_fragments) return DicomStatus::malformed;
        const int node = has_bytes ? -1 : paths_.child(frame.node, next.tag);
        at += next.n_bytes;
        return enter(next, {frame.end, false, next.tag != kItem, has_bytes, frame.encoding, node, kNoSpan});
    }

    // An element or item of so many bytes: entered where something in it is wanted, else passed over.
    DicomStatus pass(const Frame& frame, const Header& next) {
        if (next.length > frame.end - at - next.n_bytes) return short_of(frame, data_.size());
        const int node = paths_.child(frame.node, next.tag);
        at += next.n_bytes;
        const size_t end = at + next.length;
        if (node < 0) {
            at = end;
            return DicomStatus::complete;
        }
        if (!paths_.nodes_[static_cast<size_t>(node)].children.empty()) {
            const bool may_be = next.tag == kItem || next.vr == 0 || next.vr == vr("SQ") || next.vr == vr("UN");
            if (!may_be) return DicomStatus::malformed;
            return enter(next, {end, true, next.tag != kItem, false, frame.encoding, node, kNoSpan});
        }
        const DicomStatus status = record(node, end);
        at = end;
        return status;
    }

    DicomStatus enter(const Header& next, Frame inner) {
        if (frames_.size() >= kMaxDepth) return DicomStatus::malformed;
        if (next.vr == vr("UN")) inner.encoding = {false, false};  // little endian without VR (PS3.5, 6.2.2)
        if (inner.node >= 0 && paths_.nodes_[static_cast<size_t>(inner.node)].path >= 0) {
            inner.span = spans_.size();
            if (const DicomStatus status = record(inner.node, inner.end); status != DicomStatus::complete) return status;
        }
        frames_.push_back(inner);
        return DicomStatus::complete;
    }

    DicomStatus record(int node, size_t end) {
        const int64_t path = paths_.nodes_[static_cast<size_t>(node)].path;
        if (path < 0) return DicomStatus::complete;
        if (spans_.size() >= kMaxSpans) return DicomStatus::malformed;
        spans_.push_back({path, static_cast<int64_t>(at), static_cast<int64_t>(end)});
        return DicomStatus::complete;
    }

    const DicomPaths& paths_;
    std::string_view data_;
    std::vector<DicomSpan>& spans_;
    std::vector<Frame> frames_;
};

DicomPaths::DicomPaths(const std::vector<std::vector<uint32_t>>& paths) : nodes_(1) {
    for (size_t i = 0; i < paths.size(); ++i) {
        int node = 0;
        for (const uint32_t tag : paths[i]) {
            int next = child(node, tag);
            if (next < 0) {
                next = static_cast<int>(nodes_.size());
                nodes_.push_back({tag, -1, {}});
                nodes_[static_cast<size_t>(node)].children.push_back(next);
            }
            node = next;
        }
        nodes_[static_cast<size_t>(node)].path = static_cast<int64_t>(i);
    }
}

int DicomPaths::child(int node, uint32_t tag) const {
    if (node < 0) return -1;
    for (const int next : nodes_[static_cast<size_t>(node)].children) {
        if (nodes_[static_cast<size_t>(next)].tag == tag) return next;
    }
    return -1;
}

DicomStatus DicomPaths::scan(std::string_view data, size_t begin, DicomEncoding encoding, std::vector<DicomSpan>& spans,
                             size_t& stopped_at) const {
    DicomScan walk(*this, data, spans);
    const DicomStatus status = walk.run(begin, encoding);
    stopped_at = walk.at;
    return status;
}

}  // namespace ecg
