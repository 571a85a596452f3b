#include "dali/core/cuda_error.h"
#include "dali/kernels/dynamic_scratchpad.h"
#include "dali_operator.h"
#include "launch.h"

namespace ecg {

template <>
void ModelInputOperator<dali::GPUBackend>::RunImpl(dali::Workspace& ws) {
    const std::vector<Recipe> all = recipes(ws);
    if (all.empty()) return;
    std::vector<Lead> leads;
    for (const Recipe& recipe : all) leads.insert(leads.end(), recipe.leads.begin(), recipe.leads.end());
    dali::kernels::DynamicScratchpad scratch(ws.stream());
    const Lead* const leads_there = scratch.ToGPU(ws.stream(), leads);
    std::vector<Job> jobs;
    for (size_t i = 0; i < all.size(); ++i) {
        jobs.push_back(job(ws, static_cast<int>(i), all[i], leads_there + static_cast<int64_t>(i) * n_leads_));
    }
    CUDA_CALL(launch(scratch.ToGPU(ws.stream(), jobs), static_cast<int64_t>(jobs.size()), n_leads_, samples_, clip_,
                     ws.stream()));
}

}  // namespace ecg

DALI_REGISTER_OPERATOR(EcgModelInput, ::ecg::ModelInputOperator<::dali::GPUBackend>, ::dali::GPU);
