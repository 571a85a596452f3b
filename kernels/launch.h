// The launch of write_input() for every input of a batch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "recipe.h"

namespace ecg {

// All pointers, those in the jobs included, are the device's.
cudaError_t launch(const Job* jobs, int64_t n_jobs, int64_t n_leads, int64_t samples, float clip, cudaStream_t stream);

}  // namespace ecg
