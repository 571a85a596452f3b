// DICOM elements: a byte for the encoding and for whose paths are wanted, then the data.
#include "../kernels/dicom.h"

#include "input.h"

FUZZ(input) {
    constexpr uint32_t kItem = 0xFFFEE000, kGroups = 0x54000100, kSource = 0x003A0208;
    static const ecg::DicomPaths instance({{0x0008002A}, {0x00081090}, {kGroups}, {kGroups, kItem},
                                           {kGroups, kItem, 0x003A0005}, {kGroups, kItem, 0x003A001A},
                                           {kGroups, kItem, 0x003A0200}, {kGroups, kItem, 0x54001010}});
    static const ecg::DicomPaths channels({{kItem}, {kItem, 0x003A0203}, {kItem, kSource, kItem, 0x00080100},
                                           {kItem, kSource, kItem, 0x00080104}, {kItem, 0x003A0210}});
    const auto bits = input.take<uint8_t>();
    const size_t begin = std::min<size_t>(bits >> 3, input.n);
    std::vector<ecg::DicomSpan> spans;
    size_t stopped_at = 0;
    const ecg::DicomPaths& paths = bits & 4 ? channels : instance;
    const ecg::DicomStatus status =
        paths.scan(input.text(), begin, {(bits & 1) != 0, (bits & 2) != 0}, spans, stopped_at);
    check(stopped_at <= input.n);
    for (const ecg::DicomSpan& span : spans) {
        check(static_cast<int64_t>(begin) <= span.begin && span.begin <= span.end);
        check(status != ecg::DicomStatus::complete || span.end <= static_cast<int64_t>(input.n));
    }
}
