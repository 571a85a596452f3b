// `ecgbatch._kernels`: the host face. Every loop over samples runs without the GIL.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "base64.h"
#include "crc32.h"
#include "normalise.h"
#include "sample.h"
#include "wfdb.h"
#include "xml.h"

namespace nb = nanobind;
using namespace ecg;

template <class T, int D>
using In = nb::ndarray<const T, nb::ndim<D>, nb::device::cpu>;
template <class T, int D>
using Dense = nb::ndarray<const T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;
template <class T, int D>
using Out = nb::ndarray<T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;

namespace {

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

template <class Count>
void nanovolts(In<Count, 2> counts, Dense<int64_t, 2> channel, Dense<double, 2> nv_per_count, Dense<double, 2> zero,
               int64_t invalid, Out<int32_t, 2> out, Out<int32_t, 2> extent) {
    const size_t n_leads = out.shape(0);
    require(extent.shape(0) == n_leads && extent.shape(1) == 3, "extent is (lead, 3)");
    require(counts.shape(1) > 0, "a record has samples");
    require(channel.shape(0) == n_leads && nv_per_count.shape(0) == n_leads && zero.shape(0) == n_leads &&
                channel.shape(1) == 2 && nv_per_count.shape(1) == 2 && zero.shape(1) == 2,
            "channel, nv_per_count and zero are (lead, 2)");
    require(out.shape(1) == counts.shape(1), "out is as long as counts");
    for (size_t i = 0; i < 2 * n_leads; ++i) {
        require(channel.data()[i] >= 0 && channel.data()[i] < static_cast<int64_t>(counts.shape(0)), "channel is stored");
    }
    Counts<Count> view{counts.data(), static_cast<int64_t>(counts.shape(1)), counts.stride(0), counts.stride(1)};
    nb::gil_scoped_release free;
    thread_local std::vector<Count> scratch;
    if (view.time_stride != 1) view = planar(view, static_cast<int64_t>(counts.shape(0)), scratch);
    for (size_t lead = 0; lead < n_leads; ++lead) {
        const int64_t* c = channel.data() + 2 * lead;
        const double* w = nv_per_count.data() + 2 * lead;
        const double* z = zero.data() + 2 * lead;
        int32_t* row = out.data() + lead * out.shape(1);
        lead_nanovolts(view, {{c[0], c[1]}, {w[0], w[1]}, {z[0], z[1]}}, invalid, row);
        lead_extent(row, view.n_samples, extent.data() + 3 * lead);
    }
}

struct Lead {
    Resampler resampler;
    int64_t n;
    int64_t samples;
};

Lead check_model_input(const Dense<int32_t, 2>& nv, int64_t up, int64_t down, int64_t half, const Dense<float, 2>& taps,
                       const Dense<float, 1>& per_nv, const Out<float, 2>& out) {
    require(up > 0 && down > 0 && half >= 0, "up and down are positive");
    require(taps.shape(0) == static_cast<size_t>(up) && taps.shape(1) * taps.shape(0) > static_cast<size_t>(2 * half),
            "taps are (phase, tap) of the whole filter");
    require(nv.shape(0) == out.shape(0) && per_nv.shape(0) == out.shape(0), "nv, per_nv and out agree on leads");
    require(nv.shape(1) > 0, "a record has samples");
    return {{up, down, half, static_cast<int64_t>(taps.shape(1)), taps.data()},
            static_cast<int64_t>(nv.shape(1)),
            static_cast<int64_t>(out.shape(1))};
}

void model_input_rows(Dense<int32_t, 2> nv, int64_t up, int64_t down, int64_t half, Dense<float, 2> taps,
                      Dense<float, 1> per_nv, float clip, Out<float, 2> out) {
    const Lead lead = check_model_input(nv, up, down, half, taps, per_nv, out);
    nb::gil_scoped_release free;
    for (size_t row = 0; row < out.shape(0); ++row) {
        lead_model_input(nv.data() + row * nv.shape(1), lead.n, lead.resampler, per_nv.data()[row], clip, lead.samples,
                         out.data() + row * out.shape(1));
    }
}

void model_input_samples(Dense<int32_t, 2> nv, int64_t up, int64_t down, int64_t half, Dense<float, 2> taps,
                         Dense<float, 1> per_nv, float clip, Out<float, 2> out) {
    const Lead lead = check_model_input(nv, up, down, half, taps, per_nv, out);
    nb::gil_scoped_release free;
    for (size_t row = 0; row < out.shape(0); ++row) {
        for (int64_t t = 0; t < lead.samples; ++t) {
            out.data()[static_cast<int64_t>(row * out.shape(1)) + t] =
                model_input(nv.data() + row * nv.shape(1), lead.n, t, up, down, half, taps.data(),
                            lead.resampler.n_taps, per_nv.data()[row], clip);
        }
    }
}

nb::tuple base64_blocks(nb::bytes text, Dense<int64_t, 2> spans, Out<uint8_t, 2> out) {
    require(spans.shape(0) == out.shape(0) && spans.shape(1) == 2, "a span (begin, end) for every row of out");
    const size_t k = spans.shape(0);
    const auto* raw = reinterpret_cast<const uint8_t*>(text.c_str());
    for (size_t i = 0; i < k; ++i) {
        const int64_t begin = spans.data()[2 * i], end = spans.data()[2 * i + 1];
        require(begin >= 0 && begin <= end && end <= static_cast<int64_t>(text.size()), "spans lie in the text");
    }
    std::vector<int64_t> n_bytes(k);
    std::vector<uint32_t> crcs(k);
    {
        nb::gil_scoped_release free;
        thread_local std::vector<uint8_t> scratch;
        for (size_t i = 0; i < k; ++i) {
            const int64_t begin = spans.data()[2 * i], end = spans.data()[2 * i + 1];
            const auto length = static_cast<size_t>(end - begin);
            scratch.resize(3 * (length / 4 + 1) + 32);
            n_bytes[i] = base64_decode(raw + begin, length, scratch.data());
            if (n_bytes[i] < 0) continue;
            const auto decoded = static_cast<size_t>(n_bytes[i]);
            crcs[i] = crc32(scratch.data(), decoded);
            std::memcpy(out.data() + i * out.shape(1), scratch.data(), std::min(decoded, out.shape(1)));
        }
    }
    return nb::make_tuple(n_bytes, crcs);
}

// Spans of the text's wanted elements, found without the GIL.
XmlStatus found_in(const XmlPaths& paths, const nb::bytes& text, std::vector<XmlSpan>& spans, size_t& stopped_at) {
    nb::gil_scoped_release free;
    return paths.scan({text.c_str(), text.size()}, spans, stopped_at);
}

nb::tuple scan(const XmlPaths& paths, nb::bytes text) {
    std::vector<XmlSpan> spans;
    size_t stopped_at = 0;
    const XmlStatus status = found_in(paths, text, spans, stopped_at);
    nb::list found;
    for (const XmlSpan& span : spans) found.append(nb::make_tuple(span.path, span.begin, span.end));
    return nb::make_tuple(static_cast<int>(status), stopped_at, found);
}

nb::tuple root(nb::bytes text) {
    std::string_view name;
    size_t stopped_at = 0;
    const XmlStatus status = xml_root({text.c_str(), text.size()}, name, stopped_at);
    return nb::make_tuple(static_cast<int>(status), stopped_at, nb::bytes(name.data(), name.size()));
}

// The first n_columns paths as a table: a row for each element at the first one, holding the contents of those
// between, and where the row and the content of the last of them lie. The spans of all other paths beside it.
nb::tuple table(const XmlPaths& paths, nb::bytes text, int64_t n_columns) {
    require(n_columns >= 2, "a table has a row and a payload");
    std::vector<XmlSpan> spans;
    size_t stopped_at = 0;
    const XmlStatus status = found_in(paths, text, spans, stopped_at);
    nb::list found, rows, row;
    std::vector<int64_t> places;
    for (const XmlSpan& span : spans) {
        if (span.path >= n_columns) {
            found.append(nb::make_tuple(span.path - n_columns, span.begin, span.end));
        } else if (span.path == 0) {
            row = nb::list();
            for (int64_t i = 1; i < n_columns - 1; ++i) row.append(nb::bytes("", 0));
            rows.append(row);
            places.insert(places.end(), {span.begin, 0, 0});
        } else if (places.empty()) {
            continue;
        } else if (span.path == n_columns - 1) {
            places[places.size() - 2] = span.begin;
            places[places.size() - 1] = span.end;
        } else {
            row[static_cast<size_t>(span.path - 1)] =
                nb::bytes(text.c_str() + span.begin, static_cast<size_t>(span.end - span.begin));
        }
    }
    nb::list where;
    for (size_t i = 0; i < places.size(); i += 3) {
        where.append(nb::make_tuple(places[i], places[i + 1], places[i + 2]));
    }
    return nb::make_tuple(static_cast<int>(status), stopped_at, found, rows, where);
}

template <class Count>
std::vector<int> flat_channels(In<Count, 2> counts) {
    require(counts.shape(1) > 0, "a record has samples");
    std::vector<int> flat;
    for (size_t c = 0; c < counts.shape(0); ++c) {
        const Count* first = counts.data() + static_cast<int64_t>(c) * counts.stride(0);
        size_t t = 1;
        while (t < counts.shape(1) && first[static_cast<int64_t>(t) * counts.stride(1)] == *first) ++t;
        if (t == counts.shape(1)) flat.push_back(static_cast<int>(c));
    }
    return flat;
}

void unpack(int format, nb::bytes data, size_t offset, Out<int32_t, 1> out) {
    const size_t needed = wfdb_bytes(format, out.shape(0));
    require(needed > 0 || out.shape(0) == 0, "a packed WFDB format");
    require(offset <= data.size() && needed <= data.size() - offset, "data hold as many samples as out");
    const auto* raw = reinterpret_cast<const uint8_t*>(data.c_str()) + offset;
    nb::gil_scoped_release free;
    wfdb_unpack(format, raw, out.shape(0), out.data());
}

std::vector<int> frame_sums(Dense<int16_t, 2> frames) {
    const size_t n_channels = frames.shape(1);
    std::vector<uint16_t> sums(n_channels);
    {
        nb::gil_scoped_release free;
        interleaved_sums(frames.data(), static_cast<int64_t>(frames.shape(0)), static_cast<int64_t>(n_channels),
                         sums.data());
    }
    return {sums.begin(), sums.end()};
}

}  // namespace

NB_MODULE(_kernels, m) {
    using namespace nb::literals;
    // Arrays are taken as they are: a converted copy would swallow what is written, or wrap what is read.
    const auto nanovolts_of = [&m](auto face) {
        m.def("nanovolts", face, "counts"_a.noconvert(), "channel"_a.noconvert(), "nv_per_count"_a.noconvert(),
              "zero"_a.noconvert(), "invalid"_a, "out"_a.noconvert(), "extent"_a.noconvert());
    };
    nanovolts_of(&nanovolts<int16_t>);
    nanovolts_of(&nanovolts<int32_t>);
    const auto model_input_of = [&m](const char* name, auto face) {
        m.def(name, face, "nv"_a.noconvert(), "up"_a, "down"_a, "half"_a, "taps"_a.noconvert(), "per_nv"_a.noconvert(),
              "clip"_a, "out"_a.noconvert());
    };
    model_input_of("model_input", &model_input_rows);
    model_input_of("model_input_by_sample", &model_input_samples);
    m.def("base64_blocks", &base64_blocks, "text"_a, "spans"_a.noconvert(), "out"_a.noconvert());
    m.def("crc32", [](nb::bytes data) { return crc32(reinterpret_cast<const uint8_t*>(data.c_str()), data.size()); });
    m.def("wfdb_bytes", &wfdb_bytes, "fmt"_a, "n"_a);
    m.def("wfdb_unpack", &unpack, "fmt"_a, "data"_a, "offset"_a, "out"_a.noconvert());
    m.def("flat_channels", &flat_channels<int16_t>, "counts"_a.noconvert());
    m.def("flat_channels", &flat_channels<int32_t>, "counts"_a.noconvert());
    m.def("frame_sums", &frame_sums, "frames"_a.noconvert());
    m.def("xml_root", &root, "text"_a);
    nb::class_<XmlPaths>(m, "XmlPaths").def(nb::init<const std::vector<std::string>&>())
        .def("scan", &scan, "text"_a)
        .def("table", &table, "text"_a, "n_columns"_a);
}
