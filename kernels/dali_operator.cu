#include "dali/core/cuda_error.h"
#include "dali/kernels/dynamic_scratchpad.h"
#include "dali_operator.h"

namespace ecg {
namespace {

__global__ void __launch_bounds__(kThreads)
    write_inputs(const Job* jobs, int64_t n_jobs, int64_t n_leads, int64_t samples, float clip) {
    write_input(jobs, n_jobs, n_leads, samples, clip, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
}

}  // namespace

template <>
void ModelInputOperator<dali::GPUBackend>::RunImpl(dali::Workspace& ws) {
    const std::vector<Recipe> all = recipes(ws);
    std::vector<Lead> leads;
    for (const Recipe& recipe : all) leads.insert(leads.end(), recipe.leads.begin(), recipe.leads.end());
    if (leads.empty()) return;
    dali::kernels::DynamicScratchpad scratch(ws.stream());
    const Lead* const leads_there = scratch.ToGPU(ws.stream(), leads);
    std::vector<Job> jobs;
    for (size_t i = 0; i < all.size(); ++i) {
        jobs.push_back(job(ws, static_cast<int>(i), all[i], leads_there + static_cast<int64_t>(i) * n_leads_));
    }
    const Job* const jobs_there = scratch.ToGPU(ws.stream(), jobs);
    const auto n_jobs = static_cast<int64_t>(jobs.size());
    const auto blocks = static_cast<unsigned>(n_blocks(n_jobs * n_leads_ * samples_));
    write_inputs<<<blocks, kThreads, 0, ws.stream()>>>(jobs_there, n_jobs, n_leads_, samples_, clip_);
    CUDA_CALL(cudaGetLastError());
}

}  // namespace ecg

DALI_REGISTER_OPERATOR(EcgModelInput, ::ecg::ModelInputOperator<::dali::GPUBackend>, ::dali::GPU);
