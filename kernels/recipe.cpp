#include "recipe.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace ecg {
namespace {

constexpr int64_t kMost = INT32_MAX;    // of samples, strides, rates and taps: products of two stay within 63 bits
constexpr int64_t kCoarsest = 1 << 16;  // of `down`, which room is made for; waveform.py has 4096 at most
constexpr double kWidest = 1e100;       // of gains and zeros: sums of products of two stay finite
constexpr size_t kKept = 64;            // resamplers; an archive has a handful of rates

bool within(int64_t x, int64_t low, int64_t high) { return x >= low && x <= high; }

bool within(const double (&values)[2]) {
    return std::abs(values[0]) <= kWidest && std::abs(values[1]) <= kWidest;  // which no NaN is
}

int64_t last_channel(const Recipe& recipe) {
    int64_t last = 0;
    for (const Lead& lead : recipe.leads) last = std::max({last, lead.mix.channel[0], lead.mix.channel[1]});
    return last;
}

template <class Count>
void write_leads(const Recipe& recipe, const Count* counts, const Resampler& resampler, float clip, int64_t samples,
                 float* out) {
    const Layout& layout = recipe.layout;
    Counts<Count> view{counts, layout.n_samples, layout.channel_stride, layout.time_stride};
    thread_local std::vector<Count> scratch;
    if (view.time_stride != 1) view = planar(view, last_channel(recipe) + 1, scratch);
    const auto n = static_cast<size_t>(layout.n_samples);
    thread_local std::vector<int32_t> nv;
    std::vector<Scale> scales;
    nv.resize(recipe.leads.size() * n);
    for (size_t i = 0; i < recipe.leads.size(); ++i) {
        lead_nanovolts(view, recipe.leads[i].mix, layout.invalid, nv.data() + i * n);
        scales.push_back(recipe.leads[i].scale());
    }
    model_inputs(nv.data(), layout.n_samples, resampler, scales, clip, samples, out);
}

}  // namespace

Recipe::Recipe(const void* bytes, size_t n_bytes) : layout{} {
    const auto* from = static_cast<const char*>(bytes);
    const size_t rest = n_bytes < sizeof(Layout) ? 0 : n_bytes - sizeof(Layout);
    is_whole = rest != 0 && rest % sizeof(Lead) == 0;
    if (!is_whole) return;
    leads.resize(rest / sizeof(Lead));
    std::memcpy(&layout, from, sizeof(Layout));
    std::memcpy(leads.data(), from + sizeof(Layout), rest);
}

bool Recipe::is_sound(int64_t n_halves, int64_t n_taps) const {
    const int64_t n_counts = layout.is_wide ? n_halves / 2 : n_halves;
    if (!is_whole || !within(n_counts, 1, kMost) || !within(layout.n_samples, 1, n_counts)) return false;
    if (!within(layout.channel_stride, 1, n_counts) || !within(layout.time_stride, 1, n_counts)) return false;
    if (!within(layout.up, 1, kMost) || !within(layout.down, 1, kCoarsest)) return false;
    if (!within(layout.half, 0, kMost) || !within(layout.n_taps, 1, kMost)) return false;
    if (layout.n_taps * layout.up != n_taps) return false;
    if (n_taps <= 2 * layout.half || (layout.up == layout.down && n_taps != 1)) return false;  // equal rates pass
    const int64_t last = n_counts - 1 - (layout.n_samples - 1) * layout.time_stride;  // where a channel may begin
    const auto begins_inside = [&](int64_t channel) {
        return within(channel, 0, n_counts) && channel * layout.channel_stride <= last;
    };
    return std::all_of(leads.begin(), leads.end(), [&](const Lead& lead) {
        return begins_inside(lead.mix.channel[0]) && begins_inside(lead.mix.channel[1]) &&
               within(lead.mix.nv_per_count) && within(lead.mix.zero_counts) &&
               std::abs(lead.offset_nv) <= kWidest && std::abs(lead.per_nv) <= kWidest;
    });
}

std::shared_ptr<const Resampler> Resamplers::of(const Layout& layout, const float* taps) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto n = static_cast<size_t>(layout.up * layout.n_taps);
    const auto found = std::find_if(made_.begin(), made_.end(), [&](const auto& made) {
        return made->up == layout.up && made->down == layout.down && made->half == layout.half &&
               made->taps.size() == n && std::memcmp(made->taps.data(), taps, n * sizeof(float)) == 0;
    });
    if (found != made_.end()) {
        std::rotate(found, found + 1, made_.end());
    } else {
        if (made_.size() == kKept) made_.erase(made_.begin());
        made_.push_back(std::make_shared<Resampler>(layout.up, layout.down, layout.half, layout.n_taps,
                                                    std::vector<float>(taps, taps + n)));
    }
    return made_.back();
}

void write_record(const Recipe& recipe, const uint16_t* payload, const Resampler& resampler, float clip,
                  int64_t samples, float* out) {
    if (!recipe.layout.is_wide) {
        return write_leads(recipe, reinterpret_cast<const int16_t*>(payload), resampler, clip, samples, out);
    }
    if (reinterpret_cast<uintptr_t>(payload) % alignof(int32_t) == 0) {
        return write_leads(recipe, reinterpret_cast<const int32_t*>(payload), resampler, clip, samples, out);
    }
    const Layout& layout = recipe.layout;
    const int64_t n = last_channel(recipe) * layout.channel_stride + (layout.n_samples - 1) * layout.time_stride + 1;
    std::vector<int32_t> aligned(static_cast<size_t>(n));
    std::memcpy(aligned.data(), payload, aligned.size() * sizeof(int32_t));
    write_leads(recipe, aligned.data(), resampler, clip, samples, out);
}

}  // namespace ecg
