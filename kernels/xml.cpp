#include "xml.h"

#include <algorithm>
#include <array>

namespace ecg {
namespace {

constexpr size_t kMaxDepth = 256;  // real ECG documents stay under 20
constexpr size_t kMaxSpans = 64 * 1024;  // likewise under 1000
constexpr size_t kNone = std::string_view::npos;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

constexpr auto kEndsName = [] {
    std::array<bool, 256> ends{};
    for (char c : {' ', '\t', '\r', '\n', '/', '>', '<'}) ends[static_cast<unsigned char>(c)] = true;
    return ends;
}();

bool blank(std::string_view text) {
    for (char c : text) {
        if (!is_space(c)) return false;
    }
    return true;
}

// The '>' that ends the tag or declaration at `from`, beyond quotes and, in a DOCTYPE, beyond its brackets.
size_t tag_end(std::string_view text, size_t from) {
    int brackets = 0;
    for (size_t i = from; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '<' && i > from && text.substr(i, 4) == "<!--") {  // its apostrophes are no quotes
            i = text.find("-->", i);
            if (i == kNone) return kNone;
            i += 2;
        } else if (c == '"' || c == '\'') {
            i = text.find(c, i + 1);
            if (i == kNone) return kNone;
        } else if (c == '[') {
            ++brackets;
        } else if (c == ']') {
            --brackets;
        } else if (c == '>' && brackets <= 0) {
            return i;
        }
    }
    return kNone;
}

std::string_view name_at(std::string_view text, size_t from) {
    size_t end = from;
    while (end < text.size() && !kEndsName[static_cast<unsigned char>(text[end])]) ++end;
    return text.substr(from, end - from);
}

// The prefix of a name with its colon, empty where it has none.
std::string_view prefix_of(std::string_view name) {
    const size_t colon = name.find(':');
    return name.substr(0, colon == kNone ? 0 : colon + 1);
}

// The next '<': mostly a line break and a few blanks away, else behind a long payload.
size_t next_tag(std::string_view text, size_t from) {
    for (const size_t near = std::min(from + 16, text.size()); from < near; ++from) {
        if (text[from] == '<') return from;
    }
    return text.find('<', from);
}

struct Open {
    std::string_view name;
    int node;
    int64_t span;  // index into the spans, or -1
};

}  // namespace

XmlStatus xml_root(std::string_view text, std::string_view& name, size_t& at) {
    at = text.substr(0, 3) == "\xEF\xBB\xBF" ? 3 : 0;
    while (true) {
        const size_t tag = text.find('<', at);
        if (tag == kNone) return XmlStatus::truncated;
        if (!blank(text.substr(at, tag - at))) return XmlStatus::malformed;
        at = tag;
        const std::string_view rest = text.substr(tag);
        if (rest.substr(0, 2) != "<?" && rest.substr(0, 2) != "<!") {
            const std::string_view found = name_at(text, tag + 1);
            if (tag + 1 + found.size() == text.size()) return XmlStatus::truncated;
            name = found;
            return name.empty() ? XmlStatus::malformed : XmlStatus::complete;
        }
        const bool is_comment = rest.substr(0, 4) == "<!--";
        const size_t end = is_comment        ? text.find("-->", tag + 4)
                           : rest[1] == '?' ? text.find("?>", tag + 2)
                                            : tag_end(text, tag);
        const bool declares = rest[1] == '!' && !is_comment &&
                              text.substr(tag, end == kNone ? kNone : end - tag).find("<!ENTITY") != kNone;
        if (declares) return XmlStatus::entities;
        if (end == kNone) return XmlStatus::truncated;
        at = end + (is_comment ? 3 : rest[1] == '?' ? 2 : 1);
    }
}

XmlPaths::XmlPaths(const std::vector<std::string>& paths) : nodes_(1) {
    for (size_t p = 0; p < paths.size(); ++p) {
        int node = 0;
        for (size_t from = 0; from <= paths[p].size();) {
            const size_t slash = std::min(paths[p].find('/', from), paths[p].size());
            const std::string name = paths[p].substr(from, slash - from);
            int next = child(node, name);
            if (next < 0) {
                next = static_cast<int>(nodes_.size());
                nodes_.push_back({name, -1, {}});
                nodes_[static_cast<size_t>(node)].children.push_back(next);
            }
            node = next;
            from = slash + 1;
        }
        nodes_[static_cast<size_t>(node)].path = static_cast<int64_t>(p);
    }
}

int XmlPaths::child(int node, std::string_view name) const {
    if (node < 0) return -1;
    for (int next : nodes_[static_cast<size_t>(node)].children) {
        if (nodes_[static_cast<size_t>(next)].name == name) return next;
    }
    return -1;
}

XmlStatus XmlPaths::scan(std::string_view text, std::vector<XmlSpan>& spans, size_t& at) const {
    std::vector<Open> open;
    std::string_view prefix;
    bool has_root = false;
    at = text.substr(0, 3) == "\xEF\xBB\xBF" ? 3 : 0;
    const auto skip_past = [&](size_t from, std::string_view end) {
        const size_t found = text.find(end, from);
        if (found == kNone) return false;
        at = found + end.size();
        return true;
    };
    while (true) {
        const size_t tag = next_tag(text, at);
        if (open.empty() && !blank(text.substr(at, tag == kNone ? kNone : tag - at))) return XmlStatus::malformed;
        if (tag == kNone) return has_root && open.empty() ? XmlStatus::complete : XmlStatus::truncated;
        at = tag;
        if (tag + 1 == text.size()) return XmlStatus::truncated;
        const char kind = text[tag + 1];
        if (kind == '/') {
            const size_t end = text.find('>', tag + 2);
            if (end == kNone) return XmlStatus::truncated;
            if (open.empty()) return XmlStatus::malformed;
            const std::string_view inside = text.substr(tag + 2, end - tag - 2), name = open.back().name;
            if (!inside.starts_with(name) || !blank(inside.substr(name.size()))) return XmlStatus::malformed;
            if (open.back().span >= 0) spans[static_cast<size_t>(open.back().span)].end = static_cast<int64_t>(tag);
            open.pop_back();
            at = end + 1;
        } else if (kind == '?') {
            if (!skip_past(tag + 2, "?>")) return XmlStatus::truncated;
        } else if (kind == '!' && text.substr(tag, 4) == "<!--") {
            if (!skip_past(tag + 4, "-->")) return XmlStatus::truncated;
        } else if (kind == '!' && text.substr(tag, 9) == "<![CDATA[" && !open.empty()) {
            if (!skip_past(tag + 9, "]]>")) return XmlStatus::truncated;
        } else if (kind == '!') {
            const size_t end = tag_end(text, tag);
            const std::string_view declaration = text.substr(tag, end == kNone ? kNone : end - tag);
            if (declaration.find("<!ENTITY") != kNone) return XmlStatus::entities;
            if (end == kNone) return XmlStatus::truncated;
            if (text.substr(tag, 9) != "<!DOCTYPE" || has_root) return XmlStatus::malformed;
            at = end + 1;
        } else {
            const std::string_view name = name_at(text, tag + 1);
            const size_t end = tag_end(text, tag + 1 + name.size());
            if (end == kNone) return XmlStatus::truncated;
            if (name.empty() || (open.empty() && has_root)) return XmlStatus::malformed;
            if (open.size() == kMaxDepth) return XmlStatus::malformed;
            if (!has_root) prefix = prefix_of(name);
            has_root = true;
            const std::string_view local = name.substr(name.starts_with(prefix) ? prefix.size() : 0);
            const int node = child(open.empty() ? 0 : open.back().node, local);
            const int64_t path = node < 0 ? -1 : nodes_[static_cast<size_t>(node)].path;
            const auto begin = static_cast<int64_t>(end + 1);
            int64_t span = -1;
            if (path >= 0) {
                if (spans.size() == kMaxSpans) return XmlStatus::malformed;
                span = static_cast<int64_t>(spans.size());
                spans.push_back({path, begin, begin, static_cast<int64_t>(tag)});
            }
            if (text[end - 1] != '/') open.push_back({name, node, span});
            at = end + 1;
        }
    }
}

std::vector<XmlRow> xml_rows(std::string_view text, const std::vector<XmlSpan>& spans, int64_t n_columns) {
    std::vector<XmlRow> rows;
    std::vector<XmlSpan> row(static_cast<size_t>(n_columns));
    const auto end_row = [&] {
        XmlRow& ended = rows.back();
        for (size_t i = 1; i + 1 < row.size(); ++i) {
            if (i > 1) ended.contents += '\0';
            const auto begin = static_cast<size_t>(row[i].begin), end = static_cast<size_t>(row[i].end);
            ended.contents += text.substr(begin, end - begin);
        }
        ended.begin = row[0].begin;
        ended.payload_begin = row.back().begin;
        ended.payload_end = row.back().end;
    };
    for (const XmlSpan& span : spans) {
        if (span.path >= n_columns) continue;
        if (span.path == 0) {
            if (!rows.empty()) end_row();
            std::fill(row.begin(), row.end(), XmlSpan{});
            rows.emplace_back();
        }
        if (!rows.empty()) row[static_cast<size_t>(span.path)] = span;
    }
    if (!rows.empty()) end_row();
    return rows;
}

}  // namespace ecg
