// The grouped 3x3 convolution as the rest of the library calls it: no torch, and of CUDA only the stream and the error.
#pragma once

#include <cuda_runtime_api.h>

#include "dtype.h"
#include "gconv3x3_plan.h"

namespace regnet_kernels {

// Enqueues the kernel for `conv` on `stream` of the current device. x, weight and y hold `dtype`, bias float32; weight
// is (channels, 3, 3, group_width); sums: float32, (images, tiles, channels), looked at if conv.pool, which
// float32 does not have (cudaErrorInvalidValue). conv.images == 0 does nothing. Returns what the launch returned.
cudaError_t launch_gconv3x3(const GroupedConv& conv, Dtype dtype, const void* x, const void* weight, const float* bias,
                            void* y, float* sums, cudaStream_t stream);

}  // namespace regnet_kernels
