#include "gconv3x3_wgmma_launch.cuh"

namespace regnet_kernels {

template cudaError_t launch_gconv3x3_wgmma_of<device::Half>(const WgmmaPlan&, const void*, const void*, const float*, void*, float*,
                                                            cudaStream_t);

cudaError_t launch_gconv3x3_wgmma(const GroupedConv& conv, Dtype dtype, const WgmmaTile& tile, const void* x, const void* weight,
                                  const float* bias, void* y, float* sums, cudaStream_t stream) {
  if (conv.images == 0) return cudaSuccess;
  if (9ll * conv.channels * conv.group_width > INT_MAX) return cudaErrorInvalidValue;
  WgmmaPlan plan;
  if (!plan_wgmma(plan, conv, tile)) return cudaErrorInvalidValue;
  switch (dtype) {
    case Dtype::float16: return launch_gconv3x3_wgmma_of<device::Half>(plan, x, weight, bias, y, sums, stream);
    case Dtype::bfloat16: return launch_gconv3x3_wgmma_of<device::BFloat16>(plan, x, weight, bias, y, sums, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace regnet_kernels
