// The float32 version of gconv3x3.cuh: plain fused multiply-adds, no tf32. A thread computes 8 neighbouring channels
// of one output pixel; the threads of a warp take 32 pixels, so that each load of weights serves all of them.
#pragma once

#include <device.h>

#include "activation.cuh"
#include "gconv3x3_plan.h"

namespace regnet_kernels {

struct alignas(16) Float4 {
  float value[4];
};

// The blocks: one for each 32 pixels and 4 times 8 channels, the channels first.
inline long long float_blocks(const GroupedConvPlan& plan) {
  const long long pixels = 1ll * plan.conv.images * plan.out_height * plan.out_width;
  return (pixels + 31) / 32 * ceil_div(plan.conv.channels / 8, kThreads / 32);
}

// x (N, H, W, C), weight (C, 3, 3, group_width), bias (C), y (N, Ho, Wo, C); 16-byte aligned.
// Grid: float_blocks blocks of kThreads.
__global__ void __launch_bounds__(kThreads)
    gconv3x3_float(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                   float* __restrict__ y, const GroupedConvPlan plan) {
  const GroupedConv& conv = plan.conv;
  const int width = conv.group_width, parts = (conv.channels / 8 + kThreads / 32 - 1) / (kThreads / 32);
  const long long pixel = static_cast<long long>(blockIdx.x / parts) * 32 + threadIdx.x % 32;
  const int channel = (blockIdx.x % parts * (kThreads / 32) + threadIdx.x / 32) * 8, group = channel / width;
  if (pixel >= static_cast<long long>(conv.images) * plan.out_height * plan.out_width || channel >= conv.channels) return;
  const int out_column = static_cast<int>(pixel % plan.out_width);
  const int out_row = static_cast<int>(pixel / plan.out_width % plan.out_height);
  const long long image = pixel / plan.out_width / plan.out_height;

  Float4 sum[2] = {device::load_global(reinterpret_cast<const Float4*>(bias + channel)),
                   device::load_global(reinterpret_cast<const Float4*>(bias + channel + 4))};
  for (int tap = 0; tap < 9; ++tap) {
    const int row = out_row * conv.stride + tap / 3 - 1, column = out_column * conv.stride + tap % 3 - 1;
    if (row < 0 || row >= conv.height || column < 0 || column >= conv.width) continue;
    const float* const in = x + ((image * conv.height + row) * conv.width + column) * conv.channels + group * width;
    const float* const w = weight + (static_cast<size_t>(channel) * 9 + tap) * width;
    for (int k = 0; k < width; k += 4) {
      const Float4 a = device::load_global(reinterpret_cast<const Float4*>(in + k));
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const Float4 b = device::load_global(reinterpret_cast<const Float4*>(w + static_cast<size_t>(j) * 9 * width + k));
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[j / 4].value[j % 4] += a.value[i] * b.value[i];
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
