// The kernels of one instruction set: compiled once for each, with REGNET_ISA naming it.
//
// The convolution is one micro-kernel for everything: 1x1, grouped and dense k x k, stem and head. A register tile holds
// P pixels x (F full panels of 16 + H half panels of 8) output channels; each step along the reduction axis loads the
// tile's weights once and broadcasts one word of each pixel against them. Channels are in the vector, pixels are
// pointers: so a tile may cross rows and images, strides cost nothing, and a 7 x 7 map fills it.
#include <utility>

#include "kernels.h"

#if !defined(REGNET_ISA)
#error "compile with -DREGNET_ISA=baseline|avx2|avx512|avx512_bf16"
#endif
#define REGNET_CAT_(a, b) a##b
#define REGNET_CAT(a, b) REGNET_CAT_(a, b)
#define REGNET_STR_(a) #a
#define REGNET_STR(a) REGNET_STR_(a)
#define REGNET_IS_baseline 1
#define REGNET_IS_avx2 2
#define REGNET_IS_avx512 3
#define REGNET_IS_avx512_bf16 4
#define REGNET_LEVEL REGNET_CAT(REGNET_IS_, REGNET_ISA)

#if REGNET_LEVEL >= 3
#define VL 16
#elif REGNET_LEVEL == 2
#define VL 8
#else
#define VL 4
#endif
#if REGNET_LEVEL == 4 && defined(__AVX512BF16__)
#define REGNET_NATIVE_BF16 1
#endif
#if VL == 16
#include <immintrin.h>
#endif

namespace regnet_kernels::cpu {
namespace {

#include "vec.h"
#include "tiles.h"
#include "conv_kernels.h"
#include "winograd_transforms.h"
#include "winograd_kernels.h"
#include "winograd_strided_kernels.h"
#include "winograd_bf16_kernels.h"
#include "squeeze_kernels.h"
#include "image_kernels.h"

// The machine's peak: multiply-adds in independent chains of registers.
double fma_burst(Type type, int64_t iterations, float* sink) {
  constexpr int kChains = 12;
  vf a[kChains];
  for (int i = 0; i < kChains; i++) a[i] = broadcast(sink[0] + (float)i);
  const vf m = broadcast(sink[1]), b = broadcast(sink[2]);
  if (type == Type::f32) {
    for (int64_t k = 0; k < iterations; k++) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; i++) a[i] = a[i] * m + b;
    }
  } else {
    for (int64_t k = 0; k < iterations; k++) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; i++) a[i] = dot_bf16(a[i], (vu)m, (vu)b);
    }
  }
  vf sum = a[0];
  for (int i = 1; i < kChains; i++) sum += a[i];
  sink[3] = horizontal_sum(sum);
  return (double)iterations * kChains * VL * (type == Type::f32 ? 2 : 4);
}

}  // namespace

extern const Kernels REGNET_CAT(kernels_, REGNET_ISA);
const Kernels REGNET_CAT(kernels_, REGNET_ISA) = {
    REGNET_STR(REGNET_ISA), VL, pixels<DotF32>(kMaxFull, 0), kMaxFull, VL == 16, conv, winograd_of_stride, winograd_bf16, se_reduce_fc1, se_fc2,
    sum_pixels, scale_pixels, store_scaled, weave_planes, widen, fma_burst,
};

}  // namespace regnet_kernels::cpu
