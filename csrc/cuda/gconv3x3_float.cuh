// The float32 version of gconv3x3.cuh: plain fused multiply-adds, no tf32. A thread computes 8 neighbouring channels
// of one output pixel; neighbouring threads share the pixel, so its inputs are broadcast and the weights contiguous.
#pragma once

#include <device.h>

#include "activation.cuh"
#include "gconv3x3_plan.h"

namespace regnet_kernels {

struct alignas(16) Float4 {
  float value[4];
};

// x (N, H, W, C), y (N, Ho, Wo, C), bias (C), weight (groups, 9, group_width in, group_width out); 16-byte aligned.
// Grid: ceil(N * Ho * Wo * C / 8 / kThreads) blocks of kThreads.
__global__ void __launch_bounds__(kThreads)
    gconv3x3_float(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                   float* __restrict__ y, const GroupedConvPlan plan) {
  const GroupedConv& conv = plan.conv;
  const int octets = conv.channels / 8, width = conv.group_width;
  const long long index = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  const long long pixel = index / octets;
  if (pixel >= static_cast<long long>(conv.images) * plan.out_height * plan.out_width) return;
  const int channel = static_cast<int>(index % octets) * 8, group = channel / width;
  const int out_column = static_cast<int>(pixel % plan.out_width);
  const int out_row = static_cast<int>(pixel / plan.out_width % plan.out_height);
  const long long image = pixel / plan.out_width / plan.out_height;

  Float4 sum[2] = {device::load_global(reinterpret_cast<const Float4*>(bias + channel)),
                   device::load_global(reinterpret_cast<const Float4*>(bias + channel + 4))};
  for (int tap = 0; tap < 9; ++tap) {
    const int row = out_row * conv.stride + tap / 3 - 1, column = out_column * conv.stride + tap % 3 - 1;
    if (row < 0 || row >= conv.height || column < 0 || column >= conv.width) continue;
    const float* const in = x + ((image * conv.height + row) * conv.width + column) * conv.channels + group * width;
    const float* const w =
        weight + static_cast<size_t>(group * 9 + tap) * width * width + (channel - group * width);
    for (int k = 0; k < width; k += 4) {
      const Float4 a = device::load_global(reinterpret_cast<const Float4*>(in + k));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Float4 b = device::load_global(
              reinterpret_cast<const Float4*>(w + static_cast<size_t>(k + i) * width + half * 4));
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[half].value[j] += a.value[i] * b.value[j];
        }
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[half].value[j] = activate(sum[half].value[j], conv.activation);
    device::store_global(reinterpret_cast<Float4*>(y + pixel * conv.channels + channel + half * 4), sum[half]);
  }
}

}  // namespace regnet_kernels
