#pragma once

#include <device.h>

#include <cmath>

#include "gconv3x3_plan.h"

namespace regnet_kernels {

// A NaN stays a NaN, as in torch.
__device__ __forceinline__ float activate(float value, int activation) {
  if (activation == kRelu) return value < 0.f ? 0.f : value;
  if (activation == kSilu) return value / (1.f + expf(-value));
  return value;
}

}  // namespace regnet_kernels
