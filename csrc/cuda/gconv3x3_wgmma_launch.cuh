#pragma once

#include "gconv3x3_tiles.h"
#include "gconv3x3_wgmma.cuh"
#include "gconv3x3_wgmma.h"

namespace regnet_kernels {

// One translation unit for each number type, so that they compile in parallel.
template <class Number>
cudaError_t launch_gconv3x3_wgmma_of(const WgmmaPlan& plan, const void* x, const void* weight, const float* bias, void* y, float* sums,
                                     cudaStream_t stream) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  return with_tiles(plan.tiles, [&](auto tiles) {
    const bool relu = plan.conv.activation == kRelu;
    const auto kernel = plan.conv.pool ? relu ? &gconv3x3_wgmma<Number, tiles(), true, true> : &gconv3x3_wgmma<Number, tiles(), false, true>
                        : relu         ? &gconv3x3_wgmma<Number, tiles(), true, false>
                                       : &gconv3x3_wgmma<Number, tiles(), false, false>;
    int together = 0;
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kWgmmaShared);
    if (error == cudaSuccess) {
      error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&together, kernel, kWgmmaThreads, plan.shared_bytes);
    }
    if (error != cudaSuccess) return error;
    // As many blocks as run at once, of each slice equally many and of equally many tiles, about.
    const int most = std::max(1, std::min(plan.spatial, multiprocessors * together / plan.slices));
    const int blocks = ceil_div(plan.spatial, ceil_div(plan.spatial, most));
    kernel<<<static_cast<unsigned>(plan.slices) * blocks, kWgmmaThreads, plan.shared_bytes, stream>>>(
        static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(weight), bias, static_cast<uint16_t*>(y), sums, plan, blocks);
    return cudaGetLastError();
  });
}

extern template cudaError_t launch_gconv3x3_wgmma_of<device::Half>(const WgmmaPlan&, const void*, const void*, const float*, void*, float*,
                                                                   cudaStream_t);
extern template cudaError_t launch_gconv3x3_wgmma_of<device::BFloat16>(const WgmmaPlan&, const void*, const void*, const float*, void*,
                                                                       float*, cudaStream_t);

}  // namespace regnet_kernels
