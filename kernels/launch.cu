#include "launch.h"

namespace ecg {
namespace {

__global__ void __launch_bounds__(kThreads)
    write_inputs(const Job* jobs, int64_t n_jobs, int64_t n_leads, int64_t samples, float clip) {
    write_input(jobs, n_jobs, n_leads, samples, clip, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
}

}  // namespace

cudaError_t launch(const Job* jobs, int64_t n_jobs, int64_t n_leads, int64_t samples, float clip, cudaStream_t stream) {
    const auto blocks = static_cast<unsigned>(n_blocks(n_jobs * n_leads * samples));
    if (blocks == 0) return cudaSuccess;
    write_inputs<<<blocks, kThreads, 0, stream>>>(jobs, n_jobs, n_leads, samples, clip);
    return cudaGetLastError();
}

}  // namespace ecg
