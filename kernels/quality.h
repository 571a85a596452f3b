// Signal quality of the eight independent leads, and whether stored limb leads agree with them.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace ecg {

constexpr int64_t kQualityLeads = 8;

// What is measured of each lead, in this order; `quality.MEASURES`.
enum Measure {
    kAmplitude,
    kFlat,
    kClipped,
    kSpike,
    kWander,
    kNoise,
    kMains,
    kQrs,
    kAgreement,
    kMeasures,
};

// (measure, lead) of (lead, n) nanovolts; `quality.lead_measures` defines them. A missing sample holds the last one.
void lead_measures(const int32_t* nv, int64_t n, double fs_hz, float* out);

// A logit: the intercept, and for every measure a weight of its worst and of its middle lead.
class Gate {
public:
    struct Weight {
        bool worst_is_least;
        bool is_logarithmic;  // log10(1 + measure)
        double worst, middle;
    };

    // One weight a measure.
    Gate(std::vector<Weight> weights, double intercept) : weights_(std::move(weights)), intercept_(intercept) {}

    // Of (measure, lead); and each measure in its worst lead.
    double logit(const float* measures, float* worst) const;

private:
    std::vector<Weight> weights_;
    double intercept_;
};

// |lead - (a I + b II)| in nV: the largest in a fifth of a second; in nine of ten fifths it is no larger. Looks at
// every second fifth: leads that are swapped are so all the time.
float limb_residual(const int32_t* one, const int32_t* two, const int32_t* lead, int64_t n, double fs_hz, float a,
                    float b);

}  // namespace ecg
