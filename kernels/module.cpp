// `ecgbatch._kernels`: the host face. Every loop over samples runs without the GIL.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>

#include "base64.h"
#include "crc16.h"
#include "crc32.h"
#include "dicom.h"
#include "digits.h"
#include "edf.h"
#include "file.h"
#include "normalise.h"
#include "quality.h"
#include "recipe.h"
#include "sample.h"
#include "table.h"
#include "scp.h"
#include "wfdb.h"
#include "wfdb_header.h"
#include "xli.h"
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

nb::bytes bytes_of(std::string_view text) { return nb::bytes(text.data(), text.size()); }

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// How the leads of a record follow from its channels, for as many records as are alike.
class Mixer {
public:
    Mixer(Dense<int64_t, 2> channel, Dense<double, 2> nv_per_count, Dense<double, 2> zero) {
        const size_t n_leads = channel.shape(0);
        require(nv_per_count.shape(0) == n_leads && zero.shape(0) == n_leads && channel.shape(1) == 2 &&
                    nv_per_count.shape(1) == 2 && zero.shape(1) == 2,
                "channel, nv_per_count and zero are (lead, 2)");
        const int64_t* c = channel.data();
        const double *w = nv_per_count.data(), *z = zero.data();
        for (size_t i = 0; i < n_leads; ++i, c += 2, w += 2, z += 2) {
            require(c[0] >= 0 && c[1] >= 0, "channel is stored");
            n_channels_ = std::max({n_channels_, c[0] + 1, c[1] + 1});
            leads_.push_back({{c[0], c[1]}, {w[0], w[1]}, {z[0], z[1]}});
        }
    }

    template <class Count>
    int64_t nanovolts(In<Count, 2> counts, int64_t invalid, Out<int32_t, 2> out) const {
        require(static_cast<int64_t>(counts.shape(0)) >= n_channels_, "channel is stored");
        require(counts.shape(1) > 0, "a record has samples");
        require(out.shape(0) == leads_.size() && out.shape(1) == counts.shape(1), "out is (lead, time), as counts");
        Counts<Count> view{counts.data(), static_cast<int64_t>(counts.shape(1)), counts.stride(0), counts.stride(1)};
        int64_t n_missing = 0;
        {
            nb::gil_scoped_release free;
            thread_local std::vector<Count> scratch;
            if (view.time_stride != 1) view = planar(view, static_cast<int64_t>(counts.shape(0)), scratch);
            int32_t* row = out.data();
            for (const Mix& lead : leads_) {
                n_missing += lead_nanovolts(view, lead, invalid, row);
                row += view.n_samples;
            }
        }
        return n_missing;
    }

private:
    std::vector<Mix> leads_;
    int64_t n_channels_ = 0;
};

// Nanovolts of one rate to the input of one model.
class ModelInput {
public:
    ModelInput(int64_t up, int64_t down, int64_t half, Dense<float, 2> taps, Dense<float, 1> per_nv, int64_t n_offset,
               float clip)
        : resampler_(checked(up, down, half, taps)),
          per_nv_(per_nv.data(), per_nv.data() + per_nv.size()),
          n_offset_(n_offset),
          clip_(clip) {
        require(n_offset >= 0, "an offset is the mean of some samples, or of none");
    }

    void whole_leads(Dense<int32_t, 2> nv, Out<float, 2> out) const {
        const int64_t n = checked(nv, out), samples = static_cast<int64_t>(out.shape(1));
        nb::gil_scoped_release free;
        thread_local std::vector<Scale> scales;
        scales.clear();
        const int32_t* row = nv.data();
        for (const float per_nv : per_nv_) {
            scales.push_back({n_offset_ ? mean(row, std::min(n, n_offset_)) : 0.0f, per_nv});
            row += n;
        }
        model_inputs(nv.data(), n, resampler_, scales, clip_, samples, out.data());
    }

private:
    static Resampler checked(int64_t up, int64_t down, int64_t half, const Dense<float, 2>& taps) {
        require(up > 0 && down > 0 && half >= 0, "up and down are positive");
        require(taps.shape(0) == static_cast<size_t>(up) && taps.size() > static_cast<size_t>(2 * half),
                "taps are (phase, tap) of the whole filter");
        return {up, down, half, static_cast<int64_t>(taps.shape(1)), {taps.data(), taps.data() + taps.size()}};
    }

    int64_t checked(const Dense<int32_t, 2>& nv, const Out<float, 2>& out) const {
        require(nv.shape(0) == per_nv_.size() && out.shape(0) == per_nv_.size(), "nv, per_nv and out agree on leads");
        require(nv.shape(1) > 0, "a record has samples");
        return static_cast<int64_t>(nv.shape(1));
    }

    Resampler resampler_;
    std::vector<float> per_nv_;
    int64_t n_offset_;  // samples of each lead whose mean is taken off it; 0: nothing is
    float clip_;
};

// Payload, taps and recipe of a record, as the DALI operator is given them.
using Payload = std::tuple<Dense<int16_t, 1>, Dense<float, 2>, nb::bytes>;

// The operator without DALI: what it writes for a batch on a CPU, and what its CUDA threads do.
class Jobs {
public:
    explicit Jobs(const std::vector<Payload>& payloads) : payloads_(payloads) {
        for (const auto& [counts, taps, bytes] : payloads_) {
            const Recipe& recipe = recipes_.emplace_back(bytes.c_str(), bytes.size());
            require(recipe.is_sound(static_cast<int64_t>(counts.size()), static_cast<int64_t>(taps.size())),
                    "a recipe reaches nothing but its payload and taps");
            require(recipe.leads.size() == recipes_.front().leads.size(), "all recipes are of one model");
        }
    }

    void by_record(float clip, Out<float, 3> out) {
        const std::vector<Job> jobs = checked(out);
        nb::gil_scoped_release free;
        for (size_t i = 0; i < jobs.size(); ++i) {
            write_record(recipes_[i], jobs[i].payload, *resamplers_.of(jobs[i].layout, jobs[i].taps), clip,
                         static_cast<int64_t>(out.shape(2)), jobs[i].out);
        }
    }

    void by_sample(float clip, Out<float, 3> out) {
        const std::vector<Job> jobs = checked(out);
        nb::gil_scoped_release free;
        for (int64_t i = 0; i < n_blocks(static_cast<int64_t>(out.size())) * kThreads; ++i) {
            write_input(jobs.data(), static_cast<int64_t>(jobs.size()), static_cast<int64_t>(out.shape(1)),
                        static_cast<int64_t>(out.shape(2)), clip, i);
        }
    }

private:
    std::vector<Job> checked(const Out<float, 3>& out) const {
        require(out.shape(0) == recipes_.size(), "out is (record, lead, time)");
        std::vector<Job> jobs;
        for (size_t i = 0; i < recipes_.size(); ++i) {
            require(out.shape(1) == recipes_[i].leads.size(), "out is (record, lead, time)");
            const auto& [counts, taps, _] = payloads_[i];
            jobs.push_back({recipes_[i].layout, reinterpret_cast<const uint16_t*>(counts.data()), taps.data(),
                            recipes_[i].leads.data(), out.data() + i * out.shape(1) * out.shape(2)});
        }
        return jobs;
    }

    std::vector<Payload> payloads_;
    std::vector<Recipe> recipes_;
    Resamplers resamplers_;
};

using Spans = std::vector<std::pair<int64_t, int64_t>>;

std::vector<std::pair<int64_t, uint32_t>> base64_blocks(nb::bytes text, const Spans& spans, Out<uint8_t, 2> out) {
    require(spans.size() == out.shape(0), "a span (begin, end) for every row of out");
    for (const auto& [begin, end] : spans) {
        require(begin >= 0 && begin <= end && end <= static_cast<int64_t>(text.size()), "spans lie in the text");
    }
    std::vector<std::pair<int64_t, uint32_t>> found;
    const auto* raw = reinterpret_cast<const uint8_t*>(text.c_str());
    nb::gil_scoped_release free;
    thread_local std::vector<uint8_t> scratch;
    uint8_t* row = out.data();
    for (const auto& [begin, end] : spans) {
        const auto length = static_cast<size_t>(end - begin);
        scratch.resize(base64_room(length));
        const int64_t n_bytes = base64_decode(raw + begin, length, scratch.data());
        const auto decoded = static_cast<size_t>(std::max<int64_t>(n_bytes, 0));
        found.emplace_back(n_bytes, crc32(scratch.data(), decoded));
        std::memcpy(row, scratch.data(), std::min(decoded, out.shape(1)));
        row += out.shape(1);
    }
    return found;
}

// The integers of each span, one span's after another's, and how many each has.
std::vector<int64_t> digits(nb::bytes text, const Spans& spans, Out<int32_t, 1> out) {
    size_t room = 0;
    for (const auto& [begin, end] : spans) {
        require(begin >= 0 && begin <= end && end <= static_cast<int64_t>(text.size()), "spans lie in the text");
        room += digits_room(static_cast<size_t>(end - begin));
    }
    require(out.shape(0) >= room, "out has room for every span");
    std::vector<int64_t> found;
    nb::gil_scoped_release free;
    int32_t* to = out.data();
    for (const auto& [begin, end] : spans) {
        found.push_back(digits_decode({text.c_str() + begin, static_cast<size_t>(end - begin)}, to));
        to += std::max<int64_t>(found.back(), 0);
    }
    return found;
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

// The same with where each start tag begins.
nb::tuple tags(const XmlPaths& paths, nb::bytes text) {
    std::vector<XmlSpan> spans;
    size_t stopped_at = 0;
    const XmlStatus status = found_in(paths, text, spans, stopped_at);
    nb::list found;
    for (const XmlSpan& span : spans) found.append(nb::make_tuple(span.path, span.tag, span.begin, span.end));
    return nb::make_tuple(static_cast<int>(status), stopped_at, found);
}

nb::tuple root(nb::bytes text) {
    std::string_view name;
    size_t stopped_at = 0;
    const XmlStatus status = xml_root({text.c_str(), text.size()}, name, stopped_at);
    return nb::make_tuple(static_cast<int>(status), stopped_at, nb::bytes(name.data(), name.size()));
}

nb::tuple table(const XmlPaths& paths, nb::bytes text, int64_t n_columns) {
    require(n_columns >= 2, "a table has a row and a payload");
    std::vector<XmlSpan> spans;
    size_t stopped_at = 0;
    const XmlStatus status = found_in(paths, text, spans, stopped_at);
    nb::list found, rows;
    for (const XmlRow& row : xml_rows({text.c_str(), text.size()}, spans, n_columns)) {
        rows.append(nb::make_tuple(bytes_of(row.contents), row.begin, row.payload_begin, row.payload_end));
    }
    for (const XmlSpan& span : spans) {
        if (span.path >= n_columns) found.append(nb::make_tuple(span.path - n_columns, span.begin, span.end));
    }
    return nb::make_tuple(static_cast<int>(status), stopped_at, found, rows);
}

nb::tuple elements(const DicomPaths& paths, nb::bytes data, size_t begin, bool explicit_vr, bool big_endian) {
    require(begin <= data.size(), "begin lies in the data");
    std::vector<DicomSpan> spans;
    size_t stopped_at = 0;
    DicomStatus status;
    {
        nb::gil_scoped_release free;
        status = paths.scan({data.c_str(), data.size()}, begin, {explicit_vr, big_endian}, spans, stopped_at);
    }
    nb::list found;
    for (const DicomSpan& span : spans) found.append(nb::make_tuple(span.path, span.begin, span.end));
    return nb::make_tuple(static_cast<int>(status), stopped_at, found);
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

// errno, and the content, size and modification time; no content where the file is not regular (size -1) or too large.
nb::tuple read_file(nb::bytes path, int64_t most) {
    require(std::strlen(path.c_str()) == path.size(), "a path without NUL");
    const auto opened = [&path] {
        nb::gil_scoped_release free;
        return std::make_unique<File>(path.c_str());
    };
    auto file = opened();
    if (file->error()) return nb::make_tuple(file->error(), nb::none(), 0, 0);
    if (!file->is_regular()) return nb::make_tuple(0, nb::none(), -1, 0);
    if (file->n_bytes() > most) return nb::make_tuple(0, nb::none(), file->n_bytes(), file->modified_ns());
    const auto n = static_cast<size_t>(file->n_bytes());
    nb::bytes content = nb::steal<nb::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(n)));
    if (!content.is_valid()) throw nb::python_error();
    char* to = PyBytes_AS_STRING(content.ptr());
    int64_t done = 0, n_bytes = 0, modified_ns = 0;
    int error = 0;
    {
        nb::gil_scoped_release free;
        done = file->read(to, n);
        error = file->error(), n_bytes = file->n_bytes(), modified_ns = file->modified_ns();
        file.reset();
    }
    if (done < 0) return nb::make_tuple(error, nb::none(), 0, 0);
    if (static_cast<size_t>(done) < n) content = nb::bytes(to, static_cast<size_t>(done));
    return nb::make_tuple(0, content, n_bytes, modified_ns);
}

nb::tuple header(nb::bytes text) {
    const WfdbHeader found = wfdb_header({text.c_str(), text.size()});
    nb::list files, n_signals;
    for (const WfdbFile& file : found.files) {
        files.append(bytes_of(file.name));
        n_signals.append(file.n_signals);
    }
    return nb::make_tuple(bytes_of(found.record_line), files, n_signals, bytes_of(found.layout), found.initial,
                          found.checksums);
}

void unpack(int format, nb::bytes data, size_t offset, Out<int32_t, 1> out) {
    const size_t needed = wfdb_bytes(format, out.shape(0));
    require(needed > 0 || out.shape(0) == 0, "a packed WFDB format");
    require(offset <= data.size() && needed <= data.size() - offset, "data hold as many samples as out");
    const auto* raw = reinterpret_cast<const uint8_t*>(data.c_str()) + offset;
    nb::gil_scoped_release free;
    wfdb_unpack(format, raw, out.shape(0), out.data());
}

void measures(Dense<int32_t, 2> nv, double fs_hz, Out<float, 2> out) {
    require(nv.shape(0) == kQualityLeads && nv.shape(1) > 0, "nv is (8, time)");
    require(out.shape(0) == kMeasures && out.shape(1) == kQualityLeads, "out is (measure, 8)");
    require(fs_hz >= 1 && fs_hz <= 1e6, "fs_hz is a sampling rate");
    nb::gil_scoped_release free;
    lead_measures(nv.data(), static_cast<int64_t>(nv.shape(1)), fs_hz, out.data());
}

void new_gate(Gate* gate, const std::vector<std::tuple<bool, bool, double, double>>& weights, double intercept) {
    require(weights.size() == kMeasures, "a weight for every measure");
    std::vector<Gate::Weight> rows;
    for (const auto& [worst_is_least, is_logarithmic, worst, middle] : weights) {
        rows.push_back({worst_is_least, is_logarithmic, worst, middle});
    }
    new (gate) Gate(std::move(rows), intercept);
}

std::pair<double, std::vector<float>> gate_logit(const Gate& gate, Dense<float, 2> measures) {
    require(measures.shape(0) == kMeasures && measures.shape(1) == kQualityLeads, "measures are (measure, 8)");
    std::vector<float> worst(kMeasures);
    const double logit = gate.logit(measures.data(), worst.data());
    return {logit, worst};
}

std::vector<float> limb_residuals(Dense<int32_t, 2> nv, size_t first,
                                  const std::vector<std::pair<float, float>>& weights, double fs_hz) {
    require(first > 1 && first + weights.size() <= nv.shape(0) && nv.shape(1) > 0, "nv is (lead, time), I and II first");
    require(fs_hz >= 1 && fs_hz <= 1e6, "fs_hz is a sampling rate");
    const size_t n = nv.shape(1);
    std::vector<float> found;
    nb::gil_scoped_release free;
    for (const auto& [a, b] : weights) {
        const int32_t* lead = nv.data() + (first + found.size()) * n;
        found.push_back(limb_residual(nv.data(), nv.data() + n, lead, static_cast<int64_t>(n), fs_hz, a, b));
    }
    return found;
}

// Data records from `offset` on that hold every wanted stretch of n_wanted bytes.
DataRecords records_in(const nb::bytes& data, size_t offset, size_t n_records, size_t n_bytes,
                       const std::vector<size_t>& begins, size_t n_wanted) {
    require(offset <= data.size() && (n_bytes == 0 || n_records <= (data.size() - offset) / n_bytes),
            "the records lie in the data");
    for (const size_t begin : begins) {
        require(begin <= n_bytes && n_wanted <= n_bytes - begin, "what is wanted lies in a record");
    }
    return {reinterpret_cast<const uint8_t*>(data.c_str()) + offset, n_records, n_bytes};
}

template <class Count, size_t kBytes>
void data_rows(nb::bytes data, size_t offset, size_t n_bytes, const std::vector<size_t>& begins, size_t n_samples,
               Out<Count, 2> out) {
    require(n_samples > 0 && n_samples <= n_bytes / kBytes, "a record has samples");
    require(out.shape(0) == begins.size() && out.shape(1) % n_samples == 0, "out is (signal, time) of whole records");
    const DataRecords records =
        records_in(data, offset, out.shape(1) / n_samples, n_bytes, begins, kBytes * n_samples);
    nb::gil_scoped_release free;
    edf_rows(records, begins, n_samples, out.data());
}

void onsets(nb::bytes data, size_t offset, size_t n_bytes, size_t begin, size_t n_wanted, Out<double, 1> out) {
    const DataRecords records = records_in(data, offset, out.shape(0), n_bytes, {begin}, n_wanted);
    nb::gil_scoped_release free;
    edf_onsets(records, begin, n_wanted, out.data());
}

nb::tuple numbers(nb::bytes text, char separator, Out<double, 1> out) {
    TableShape shape{0, 0};
    {
        nb::gil_scoped_release free;
        shape = table_numbers({text.c_str(), text.size()}, separator, out.data(), out.shape(0));
    }
    return nb::make_tuple(shape.n_rows, shape.n_columns);
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

// Status of the leads in text[begin:end], and the lead at which that was known.
std::pair<int, size_t> xli(nb::bytes text, std::pair<int64_t, int64_t> span, const std::vector<int64_t>& rows,
                           const std::vector<int64_t>& limbs, Out<int16_t, 2> out) {
    constexpr int kNotBase64 = 4;
    require(span.first >= 0 && span.first <= span.second && span.second <= static_cast<int64_t>(text.size()),
            "the span lies in the text");
    require(xli_places(rows, limbs, out.shape(0)), "rows of out, and a limb lead has those that it is restored from");
    const auto* raw = reinterpret_cast<const uint8_t*>(text.c_str()) + span.first;
    const auto length = static_cast<size_t>(span.second - span.first);
    nb::gil_scoped_release free;
    thread_local std::vector<uint8_t> bytes;
    bytes.resize(std::max(bytes.size(), base64_room(length)));
    const int64_t n_bytes = base64_decode(raw, length, bytes.data());
    if (n_bytes < 0) return {kNotBase64, 0};
    const std::string_view payload(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(n_bytes));
    const auto [status, lead] = xli_leads(payload, rows, limbs, out.shape(1), out.data());
    return {static_cast<int>(status), lead};
}

std::optional<ScpTables> tables(nb::bytes section) {
    ScpTables found;
    if (!found.parse(reinterpret_cast<const uint8_t*>(section.c_str()), section.size())) return std::nullopt;
    return found;
}

size_t leads(nb::bytes data, size_t begin, size_t end, const ScpTables* tables, int encoding,
             const std::vector<std::tuple<int64_t, int64_t, int64_t>>& layout, Out<int16_t, 2> out) {
    require(begin <= end && end <= data.size(), "leads lie in the data");
    require(encoding >= 0 && encoding <= 2, "amplitudes, first or second differences");
    std::vector<ScpLead> found;
    for (const auto& [n_samples, n_bytes, row] : layout) {
        require(n_samples >= 0 && n_bytes >= 0 && n_bytes <= 0xFFFF, "counts of samples, and of bytes in 16 bits");
        require(row < static_cast<int64_t>(out.shape(0)), "rows lie in out");
        require(row < 0 || n_samples == static_cast<int64_t>(out.shape(1)), "out is (row, time)");
        require(static_cast<size_t>(n_samples) <= 8 * (end - begin), "a sample takes a bit");
        found.push_back({n_samples, n_bytes, row});
    }
    const auto* raw = reinterpret_cast<const uint8_t*>(data.c_str()) + begin;
    nb::gil_scoped_release free;
    return scp_leads(raw, end - begin, tables, static_cast<ScpEncoding>(encoding), found, out.shape(1), out.data());
}

uint16_t crc_of(nb::bytes data, size_t begin, size_t end) {
    require(begin <= end && end <= data.size(), "a span of the data");
    const auto* raw = reinterpret_cast<const uint8_t*>(data.c_str()) + begin;
    nb::gil_scoped_release free;
    return crc16(raw, end - begin);
}

}  // namespace

NB_MODULE(_kernels, m) {
    using namespace nb::literals;
    // Arrays are taken as they are: a converted copy would swallow what is written, or wrap what is read.
    nb::class_<Mixer>(m, "Mixer")
        .def(nb::init<Dense<int64_t, 2>, Dense<double, 2>, Dense<double, 2>>(), "channel"_a.noconvert(),
             "nv_per_count"_a.noconvert(), "zero"_a.noconvert())
        .def("__call__", &Mixer::nanovolts<int16_t>, "counts"_a.noconvert(), "invalid"_a, "out"_a.noconvert())
        .def("__call__", &Mixer::nanovolts<int32_t>, "counts"_a.noconvert(), "invalid"_a, "out"_a.noconvert());
    nb::class_<ModelInput>(m, "ModelInput")
        .def(nb::init<int64_t, int64_t, int64_t, Dense<float, 2>, Dense<float, 1>, int64_t, float>(), "up"_a, "down"_a,
             "half"_a, "taps"_a.noconvert(), "per_nv"_a.noconvert(), "n_offset"_a, "clip"_a)
        .def("__call__", &ModelInput::whole_leads, "nv"_a.noconvert(), "out"_a.noconvert());
    nb::class_<Jobs>(m, "Jobs")
        .def(nb::init<const std::vector<Payload>&>(), "payloads"_a)
        .def("__call__", &Jobs::by_record, "clip"_a, "out"_a.noconvert())
        .def("by_sample", &Jobs::by_sample, "clip"_a, "out"_a.noconvert());
    m.def("base64_blocks", &base64_blocks, "text"_a, "spans"_a, "out"_a.noconvert());
    m.def("crc16", &crc_of, "data"_a, "begin"_a, "end"_a);
    m.def("crc32", [](nb::bytes data) { return crc32(reinterpret_cast<const uint8_t*>(data.c_str()), data.size()); });
    nb::class_<DicomPaths>(m, "DicomPaths").def(nb::init<const std::vector<std::vector<uint32_t>>&>())
        .def("scan", &elements, "data"_a, "begin"_a, "explicit_vr"_a, "big_endian"_a);
    m.def("digits", &digits, "text"_a, "spans"_a, "out"_a.noconvert());
    m.def("edf_rows", &data_rows<int16_t, 2>, "data"_a, "offset"_a, "n_bytes"_a, "begins"_a, "n_samples"_a,
          "out"_a.noconvert());
    m.def("edf_rows", &data_rows<int32_t, 3>, "data"_a, "offset"_a, "n_bytes"_a, "begins"_a, "n_samples"_a,
          "out"_a.noconvert());
    m.def("edf_onsets", &onsets, "data"_a, "offset"_a, "n_bytes"_a, "begin"_a, "n_wanted"_a, "out"_a.noconvert());
    m.def("read_file", &read_file, "path"_a, "most"_a);
    nb::class_<ScpTables>(m, "ScpTables");
    m.def("scp_leads", &leads, "data"_a, "begin"_a, "end"_a, "tables"_a.none(), "encoding"_a, "leads"_a,
          "out"_a.noconvert());
    m.def("scp_tables", &tables, "section"_a);
    m.def("wfdb_bytes", &wfdb_bytes, "fmt"_a, "n"_a);
    m.def("wfdb_header", &header, "text"_a);
    m.def("wfdb_unpack", &unpack, "fmt"_a, "data"_a, "offset"_a, "out"_a.noconvert());
    m.def("flat_channels", &flat_channels<int16_t>, "counts"_a.noconvert());
    m.def("flat_channels", &flat_channels<int32_t>, "counts"_a.noconvert());
    m.def("lead_measures", &measures, "nv"_a.noconvert(), "fs_hz"_a, "out"_a.noconvert());
    nb::class_<Gate>(m, "Gate")
        .def("__init__", &new_gate, "weights"_a, "intercept"_a)
        .def("__call__", &gate_logit, "measures"_a.noconvert());
    m.def("limb_residuals", &limb_residuals, "nv"_a.noconvert(), "first"_a, "weights"_a, "fs_hz"_a);
    m.def("frame_sums", &frame_sums, "frames"_a.noconvert());
    m.def("xli_leads", &xli, "text"_a, "span"_a, "rows"_a, "limbs"_a, "out"_a.noconvert());
    m.def("table_numbers", &numbers, "text"_a, "separator"_a, "out"_a.noconvert());
    m.def("xml_root", &root, "text"_a);
    nb::class_<XmlPaths>(m, "XmlPaths").def(nb::init<const std::vector<std::string>&>())
        .def("scan", &scan, "text"_a)
        .def("table", &table, "text"_a, "n_columns"_a)
        .def("tags", &tags, "text"_a);
}
