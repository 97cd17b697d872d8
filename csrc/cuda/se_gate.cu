#include "se_gate.cuh"
#include "se_gate.h"

namespace regnet_kernels {

cudaError_t launch_se_gate(const Gate& gate, const float* sums, const float* w1, const float* b1, const float* w2,
                           const float* b2, float* out, cudaStream_t stream) {
  if (gate.images == 0 || gate.channels == 0) return cudaSuccess;
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const GatePlan plan = plan_se_gate(gate, multiprocessors);
  return with_gate_images(plan.images, [&](auto images) {
    se_gate<images()><<<dim3(plan.grid_x, plan.grid_y), kGateThreads, plan.shared_bytes, stream>>>(sums, w1, b1, w2, b2, out, plan);
    return cudaGetLastError();
  });
}

}  // namespace regnet_kernels
