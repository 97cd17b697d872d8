#pragma once

#include "gconv3x3.cuh"
#include "gconv3x3.h"
#include "gconv3x3_tiles.h"

namespace regnet_kernels {

// One translation unit for each number type (gconv3x3_half.cu, gconv3x3_bfloat16.cu), so that they compile in parallel.
template <class Number>
cudaError_t launch_gconv3x3_16bit(const GroupedConvPlan& plan, const void* x, const void* weight, const float* bias,
                                  void* y, float* sums, cudaStream_t stream) {
  return with_tiles(plan.tiles, [&](auto tiles) {
    const auto kernel = &gconv3x3<Number, tiles()>;
    if (plan.shared_bytes > 48 * 1024) {  // beyond 48 KB a kernel has to ask
      const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
      if (error != cudaSuccess) return error;
    }
    kernel<<<dim3(plan.grid_x, plan.grid_y), kThreads, plan.shared_bytes, stream>>>(
        static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(weight), bias, static_cast<uint16_t*>(y), sums,
        plan);
    return cudaGetLastError();
  });
}

extern template cudaError_t launch_gconv3x3_16bit<device::Half>(const GroupedConvPlan&, const void*, const void*,
                                                                const float*, void*, float*, cudaStream_t);
extern template cudaError_t launch_gconv3x3_16bit<device::BFloat16>(const GroupedConvPlan&, const void*, const void*,
                                                                    const float*, void*, float*, cudaStream_t);

}  // namespace regnet_kernels
