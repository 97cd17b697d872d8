#include "se_gate.cuh"
#include "se_gate.h"

namespace regnet_kernels {
namespace {

template <class Number>
cudaError_t launch(const GatePlan& plan, const float* sums, const void* w1, const float* b1, const void* w2, const float* b2, void* out,
                   cudaStream_t stream) {
  return with_gate_images(plan.images, [&](auto images) {
    se_gate<Number, images()><<<dim3(plan.grid_x, plan.grid_y), kGateThreads, plan.shared_bytes, stream>>>(
        sums, static_cast<const Stored<Number>*>(w1), b1, static_cast<const Stored<Number>*>(w2), b2,
        static_cast<Stored<Number>*>(out), plan);
    return cudaGetLastError();
  });
}

}  // namespace

cudaError_t launch_se_gate(const Gate& gate, Dtype dtype, const float* sums, const void* w1, const float* b1, const void* w2,
                           const float* b2, void* out, cudaStream_t stream) {
  if (gate.images == 0 || gate.channels == 0) return cudaSuccess;
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const GatePlan plan = plan_se_gate(gate, multiprocessors);
  switch (dtype) {
    case Dtype::float16: return launch<device::Half>(plan, sums, w1, b1, w2, b2, out, stream);
    case Dtype::bfloat16: return launch<device::BFloat16>(plan, sums, w1, b1, w2, b2, out, stream);
    default: return launch<device::Single>(plan, sums, w1, b1, w2, b2, out, stream);
  }
}

}  // namespace regnet_kernels
