// XML: the root, the wanted elements, and rows of them.
#include "../kernels/xml.h"

#include "input.h"

FUZZ(input) {
    static const ecg::XmlPaths paths({"RestingECG/Waveform/LeadData", "RestingECG/Waveform/LeadData/LeadID",
                                      "RestingECG/Waveform/LeadData/LeadByteCountTotal",
                                      "RestingECG/Waveform/LeadData/WaveFormData", "RestingECG/Waveform",
                                      "RestingECG/Waveform/WaveformType", "RestingECG/TestDemographics/Site", "a",
                                      "a/b"});
    const std::string_view text = input.text();
    std::string_view name;
    size_t stopped_at = 0;
    const ecg::XmlStatus root = ecg::xml_root(text, name, stopped_at);
    check(stopped_at <= text.size() && (root == ecg::XmlStatus::complete) == !name.empty());
    std::vector<ecg::XmlSpan> spans;
    paths.scan(text, spans, stopped_at);
    check(stopped_at <= text.size());
    const auto n = static_cast<int64_t>(text.size());
    for (const ecg::XmlSpan& span : spans) {
        check(0 <= span.tag && span.tag < span.begin && span.begin <= span.end && span.end <= n);
    }
    for (const ecg::XmlRow& row : ecg::xml_rows(text, spans, 4)) {
        check(0 < row.begin && row.begin <= n);
        check(0 <= row.payload_begin && row.payload_begin <= row.payload_end && row.payload_end <= n);
    }
}
