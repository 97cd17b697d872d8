#include "gconv3x3_float.cuh"
#include "gconv3x3_launch.cuh"

namespace regnet_kernels {
namespace {

cudaError_t launch_float(const GroupedConvPlan& plan, const float* x, const float* weight, const float* bias, float* y,
                         cudaStream_t stream) {
  const long long blocks = float_blocks(plan);
  if (blocks > INT_MAX) return cudaErrorInvalidValue;
  gconv3x3_float<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(x, weight, bias, y, plan);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_gconv3x3(const GroupedConv& conv, Dtype dtype, const void* x, const void* weight, const float* bias,
                            void* y, float* sums, cudaStream_t stream) {
  if (conv.pool && dtype == Dtype::float32) return cudaErrorInvalidValue;
  if (conv.images == 0) return cudaSuccess;
  if (9ll * conv.channels * conv.group_width > INT_MAX) return cudaErrorInvalidValue;
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const GroupedConvPlan plan = plan_gconv3x3(conv, multiprocessors);
  switch (dtype) {
    case Dtype::float16: return launch_gconv3x3_16bit<device::Half>(plan, x, weight, bias, y, sums, stream);
    case Dtype::bfloat16: return launch_gconv3x3_16bit<device::BFloat16>(plan, x, weight, bias, y, sums, stream);
    default:
      return launch_float(plan, static_cast<const float*>(x), static_cast<const float*>(weight), bias,
                          static_cast<float*>(y), stream);
  }
}

}  // namespace regnet_kernels
