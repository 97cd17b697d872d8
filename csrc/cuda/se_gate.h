// The squeeze-excite's gate as the rest of the library calls it: no torch, and of CUDA only the stream and the error.
#pragma once

#include <cuda_runtime_api.h>

#include "dtype.h"
#include "se_gate_plan.h"

namespace regnet_kernels {

// Enqueues the kernel (se_gate.cuh says what the pointers are) on `stream` of the current device. w1, w2 and out hold `dtype`.
// gate.images == 0 and gate.channels == 0 do nothing; gate_fits must hold. Returns what the launch returned.
cudaError_t launch_se_gate(const Gate& gate, Dtype dtype, const float* sums, const void* w1, const float* b1, const void* w2,
                           const float* b2, void* out, cudaStream_t stream);

}  // namespace regnet_kernels
