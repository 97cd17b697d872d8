// In place of the compiler's header, for the AVX512-BF16 kernels on a CPU without them: the one intrinsic that they use, after
// Intel's description of VDPBF16PS: inputs and results that are denormal count as 0, the odd elements are added first, each
// multiply-add rounds once.
#pragma once
#include <stdint.h>

typedef float __m512 __attribute__((vector_size(64)));
typedef uint16_t __m512bh __attribute__((vector_size(64)));

static inline __m512 _mm512_dpbf16_ps(__m512 acc, __m512bh a, __m512bh b) {
  const auto value = [](uint16_t half) {
    const uint32_t bits = (half & 0x7f80) == 0 ? (uint32_t)(half & 0x8000) << 16 : (uint32_t)half << 16;
    float f;
    __builtin_memcpy(&f, &bits, 4);
    return f;
  };
  const auto flush = [](float f) { return __builtin_fabsf(f) < 1.17549435e-38f ? 0.0f * f : f; };
  for (int lane = 0; lane < 16; lane++) {
    float sum = flush(acc[lane]);
    sum = flush(__builtin_fmaf(value(a[2 * lane + 1]), value(b[2 * lane + 1]), sum));
    acc[lane] = flush(__builtin_fmaf(value(a[2 * lane]), value(b[2 * lane]), sum));
  }
  return acc;
}
