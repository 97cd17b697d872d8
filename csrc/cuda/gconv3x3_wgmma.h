// The grouped 3x3 convolution for Hopper as the rest of the library calls it.
#pragma once

#include <cuda_runtime_api.h>

#include "dtype.h"
#include "gconv3x3_wgmma_plan.h"

namespace regnet_kernels {

// As launch_gconv3x3, for float16 and bfloat16 on compute capability 9.0. cudaErrorInvalidValue where the tile does not suit.
cudaError_t launch_gconv3x3_wgmma(const GroupedConv& conv, Dtype dtype, const WgmmaTile& tile, const void* x, const void* weight,
                                  const float* bias, void* y, float* sums, cudaStream_t stream);

}  // namespace regnet_kernels
