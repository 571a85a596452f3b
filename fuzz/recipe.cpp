// Recipes of any content: those that are sound reach nothing but their payload and taps, by either face, with one result.
#include "../kernels/recipe.h"

#include <cmath>

#include "input.h"

// Mostly what a file could have, at times anything.
static int64_t number(Input& input, int64_t low, int64_t high) {
    return input.between(0, 15) ? input.between(low, high) : input.take<int64_t>();
}

static ecg::Layout layout_of(Input& input, int64_t n_channels, int64_t n_samples) {
    const bool is_planar = input.between(0, 1);
    ecg::Layout layout{};
    layout.n_samples = number(input, n_samples, n_samples);
    layout.channel_stride = number(input, is_planar ? n_samples : 1, is_planar ? n_samples + 1 : 2);
    layout.time_stride = number(input, is_planar ? 1 : n_channels, is_planar ? 1 : n_channels);
    layout.is_wide = input.between(0, 1);
    layout.invalid = input.take<int16_t>();
    layout.up = number(input, 1, 12);
    layout.down = number(input, 1, 12);
    layout.half = number(input, 0, 10 * std::clamp<int64_t>(std::max(layout.up, layout.down), 1, 12));
    layout.n_taps = number(input, 1, 60);
    return layout;
}

FUZZ(input) {
    const int64_t n_channels = input.between(1, 12), n_samples = input.between(1, 300), samples = input.between(1, 400);
    const ecg::Layout layout = layout_of(input, n_channels, n_samples);
    std::vector<ecg::Lead> leads(static_cast<size_t>(input.between(1, 4)));
    for (ecg::Lead& lead : leads) {
        lead.mix.channel[0] = number(input, 0, n_channels - 1);
        lead.mix.channel[1] = number(input, 0, n_channels - 1);
        for (double& gain : lead.mix.nv_per_count) gain = input.between(0, 1) ? input.take<int16_t>() / 7.0 : 0;
        for (double& zero : lead.mix.zero_counts) zero = input.take<int16_t>();
        lead.offset_nv = input.take<int32_t>();
        lead.per_nv = 1e-9;
    }
    std::vector<char> bytes(sizeof(layout) + leads.size() * sizeof(ecg::Lead));
    std::memcpy(bytes.data(), &layout, sizeof(layout));
    std::memcpy(bytes.data() + sizeof(layout), leads.data(), bytes.size() - sizeof(layout));
    const auto n_halves = static_cast<size_t>(n_channels * n_samples * (layout.is_wide ? 2 : 1));
    std::vector<uint16_t> payload(n_halves);  // exactly so large that a sanitiser sees the first step beyond
    for (uint16_t& half : payload) half = input.take<uint16_t>();
    const bool has_taps = layout.up > 0 && layout.up <= 12 && layout.n_taps > 0 && layout.n_taps <= 60;
    const auto n_taps = static_cast<size_t>(has_taps ? layout.up * layout.n_taps : 1);
    std::vector<float> taps(n_taps);  // their sum of a phase is at most 1
    const float scale = 1 / (128 * static_cast<float>(has_taps ? layout.n_taps : 1));
    for (float& tap : taps) tap = (input.take<int8_t>() + 0.5f) * scale;
    if (layout.up == layout.down) std::fill(taps.begin(), taps.end(), 1.0f);  // equal rates pass

    const ecg::Recipe recipe(bytes.data(), bytes.size());
    if (!recipe.is_sound(static_cast<int64_t>(n_halves), static_cast<int64_t>(n_taps))) return;
    const auto n_leads = static_cast<int64_t>(leads.size()), n = n_leads * samples;
    std::vector<float> by_record(static_cast<size_t>(n)), by_sample(static_cast<size_t>(n), NAN);
    const ecg::Job job{recipe.layout, payload.data(), taps.data(), recipe.leads.data(), by_sample.data()};
    for (int64_t i = 0; i < ecg::n_blocks(n) * ecg::kThreads; ++i) ecg::write_input(&job, 1, n_leads, samples, 20, i);
    ecg::Resamplers resamplers;
    ecg::write_record(recipe, payload.data(), *resamplers.of(recipe.layout, taps.data()), 20, samples, by_record.data());
    for (size_t i = 0; i < by_sample.size(); ++i) check(std::abs(by_sample[i] - by_record[i]) <= 2e-5f);
}
