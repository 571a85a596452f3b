// The DALI operator: payloads of a batch's records to the input of one model, on either backend.
#pragma once

#include <cstdint>
#include <vector>

#include "dali/pipeline/operator/operator.h"
#include "recipe.h"

namespace ecg {

// Inputs a record: payload (int16), taps (float: phase, tap), recipe (bytes, on the host whatever the backend).
// A recipe that reaches beyond its payload is a defect of the caller and ends the pipeline, as DALI's errors do.
template <class Backend>
class ModelInputOperator : public dali::Operator<Backend> {
public:
    explicit ModelInputOperator(const dali::OpSpec& spec)
        : dali::Operator<Backend>(spec),
          n_leads_(spec.GetArgument<int>("n_leads")),
          samples_(spec.GetArgument<int>("samples")),
          clip_(spec.GetArgument<float>("clip")) {}

protected:
    bool SetupImpl(std::vector<dali::OutputDesc>& outputs, const dali::Workspace& ws) override {
        const int n_records = ws.GetInputBatchSize(0);
        outputs = {{dali::uniform_list_shape(n_records, dali::TensorShape<>{n_leads_, samples_}), DALI_FLOAT}};
        return true;
    }

    void RunImpl(dali::Workspace& ws) override;

    // Every record's recipe, sound.
    std::vector<Recipe> recipes(const dali::Workspace& ws) const {
        const auto& payloads = ws.Input<Backend>(0);
        const auto& taps = ws.Input<Backend>(1);
        const auto& bytes = ws.Input<dali::CPUBackend>(2);
        std::vector<Recipe> recipes;
        for (int i = 0; i < bytes.num_samples(); ++i) {
            const Recipe& recipe = recipes.emplace_back(bytes.raw_tensor(i), bytes.tensor_shape(i).num_elements());
            DALI_ENFORCE(recipe.is_sound(payloads.tensor_shape(i).num_elements(), taps.tensor_shape(i).num_elements()),
                         "a recipe that reaches beyond its payload or taps");
            DALI_ENFORCE(static_cast<int64_t>(recipe.leads.size()) == n_leads_, "a recipe of another model");
        }
        return recipes;
    }

    static Job job(const dali::Workspace& ws, int i, const Recipe& recipe, const Lead* leads) {
        return {recipe.layout, static_cast<const uint16_t*>(ws.Input<Backend>(0).raw_tensor(i)),
                ws.Input<Backend>(1).template tensor<float>(i), leads,
                ws.Output<Backend>(0).template mutable_tensor<float>(i)};
    }

    int64_t n_leads_, samples_;
    float clip_;
    Resamplers resamplers_;  // of the host backend
};

}  // namespace ecg
