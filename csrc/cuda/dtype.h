#pragma once

namespace regnet_kernels {

enum class Dtype { float32, float16, bfloat16 };

}  // namespace regnet_kernels
