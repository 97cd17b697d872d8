// gate = sigmoid(w2 relu(w1 mean + b1) + b2), mean = (sum over tiles of sums) / count: one launch, float32.
//
// A block owns up to 8 images and a slice of the channels. It keeps the images' means and hidden layer in shared memory,
// and computes all of the hidden layer for itself: that needs no second launch, and no block that waits for another. Eight
// lanes share a dot product and each weight that they load serves all images. Every order of summation is fixed: the same
// input gives the same bits on every run.
#pragma once

#include <device.h>

#include <type_traits>

#include "activation.cuh"
#include "se_gate_plan.h"

namespace regnet_kernels {

template <int COUNT>
struct alignas(COUNT * 4) Floats {
  float value[COUNT];
};

// sum[i] = row . input of image i, over `length` numbers, for the 8 lanes of a dot product; WIDTH numbers at a time, which
// divides length. All lanes of the warp take part.
template <int IMAGES, int WIDTH>
__device__ __forceinline__ void dot(float (&sum)[IMAGES], const float* row, device::Shared input, int pitch, int length) {
#pragma unroll
  for (int i = 0; i < IMAGES; ++i) sum[i] = 0.f;
#pragma unroll 4
  for (int k = threadIdx.x % kGateLanes * WIDTH; k < length; k += kGateLanes * WIDTH) {
    const Floats<WIDTH> weight = device::load_global(reinterpret_cast<const Floats<WIDTH>*>(row + k));
#pragma unroll
    for (int i = 0; i < IMAGES; ++i) {
      float in[4];
      const device::Shared from = input + (i * pitch + k) * 4;
      if constexpr (WIDTH == 4) device::load_shared_quad(in, from);
      else in[0] = device::load_shared_float(from);
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) sum[i] += weight.value[j] * in[j];
    }
  }
#pragma unroll
  for (int i = 0; i < IMAGES; ++i) {
#pragma unroll
    for (int mask = 1; mask < kGateLanes; mask *= 2) sum[i] += device::shuffle_xor(sum[i], mask);
  }
}

// sums (N, tiles, C), w1 (S, C), b1 (S), w2 (C, S), b2 (C), gate (N, C): all contiguous, w1 and w2 16-byte aligned.
// Grid: plan.grid_x groups of images, plan.grid_y slices of channels; kGateThreads threads; plan.shared_bytes.
template <int IMAGES>
__global__ void __launch_bounds__(kGateThreads, 2)  // left alone, ptxas stops at 80 registers and spills on sm_90
    se_gate(const float* __restrict__ sums, const float* __restrict__ w1, const float* __restrict__ b1,
            const float* __restrict__ w2, const float* __restrict__ b2, float* __restrict__ gate, const GatePlan plan) {
  const Gate& size = plan.gate;
  const int thread = threadIdx.x, own = thread / kGateLanes, lane = thread % kGateLanes;
  const int first_image = blockIdx.x * IMAGES, images = min(IMAGES, size.images - first_image);
  const device::Shared means = device::dynamic_shared(), hidden = means + IMAGES * plan.mean_pitch * 4;

  for (int i = 0; i < IMAGES; ++i) {
    // Images that do not exist count as zeros, so that nothing is read that was never written.
    const float* const from = sums + static_cast<size_t>(first_image + i) * size.tiles * size.channels;
    for (int channel = thread; channel < size.channels; channel += kGateThreads) {
      float sum = 0.f;
#pragma unroll 4
      for (int tile = 0; tile < (i < images ? size.tiles : 0); ++tile) {
        sum += device::load_global(from + static_cast<size_t>(tile) * size.channels + channel);
      }
      device::store_shared_float(means + (i * plan.mean_pitch + channel) * 4, sum / size.count);
    }
  }
  device::barrier();  // the means are there

  // The last round's surplus dot products repeat the last one, so that warps stay whole.
  float sum[IMAGES];
  for (int start = 0; start < size.squeeze; start += kGateOutputs) {
    const int unit = min(start + own, size.squeeze - 1);
    const float* const row = w1 + static_cast<size_t>(unit) * size.channels;
    if (size.channels % 4 == 0) dot<IMAGES, 4>(sum, row, means, plan.mean_pitch, size.channels);
    else dot<IMAGES, 1>(sum, row, means, plan.mean_pitch, size.channels);
    if (lane != 0 || start + own >= size.squeeze) continue;
    const float bias = device::load_global(b1 + unit);
#pragma unroll
    for (int i = 0; i < IMAGES; ++i) {
      device::store_shared_float(hidden + (i * plan.hidden_pitch + unit) * 4, activate(sum[i] + bias, kRelu));
    }
  }
  device::barrier();  // the hidden layer is there

  const int first = blockIdx.y * plan.slice, end = min(first + plan.slice, size.channels);
  for (int start = first; start < end; start += kGateOutputs) {
    const int channel = min(start + own, end - 1);
    const float* const row = w2 + static_cast<size_t>(channel) * size.squeeze;
    if (size.squeeze % 4 == 0) dot<IMAGES, 4>(sum, row, hidden, plan.hidden_pitch, size.squeeze);
    else dot<IMAGES, 1>(sum, row, hidden, plan.hidden_pitch, size.squeeze);
    if (lane != 0 || start + own >= end) continue;
    const float bias = device::load_global(b2 + channel);
#pragma unroll
    for (int i = 0; i < IMAGES; ++i) {
      if (i >= images) continue;
      device::store_global(gate + static_cast<size_t>(first_image + i) * size.channels + channel, 1.f / (1.f + expf(-sum[i] - bias)));
    }
  }
}

// Calls use(std::integral_constant<int, images>) for images 1, 2, 4 or 8 and returns its result.
template <class Use>
auto with_gate_images(int images, Use&& use) {
  switch (images) {
    case 1: return use(std::integral_constant<int, 1>{});
    case 2: return use(std::integral_constant<int, 2>{});
    case 4: return use(std::integral_constant<int, 4>{});
    default: return use(std::integral_constant<int, 8>{});
  }
}

}  // namespace regnet_kernels
