// In place of the compiler's header, for the AVX512-BF16 kernels on a CPU without them: the two intrinsics that they use, after
// Intel's descriptions. VDPBF16PS: inputs and results that are denormal count as 0, the odd elements are added first, each
// multiply-add rounds once. VCVTNEPS2BF16: to nearest, ties to even; denormals become 0, a NaN stays one and quiet.
#pragma once
#include <stdint.h>

typedef float __m512 __attribute__((vector_size(64)));
typedef uint16_t __m512bh __attribute__((vector_size(64)));
typedef uint16_t __m256bh __attribute__((vector_size(32)));

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

static inline __m256bh _mm512_cvtneps_pbh(__m512 v) {
  __m256bh out{};
  for (int lane = 0; lane < 16; lane++) {
    uint32_t bits;
    const float f = v[lane];
    __builtin_memcpy(&bits, &f, 4);
    if (f != f) out[lane] = (uint16_t)((bits >> 16) | 0x40u);
    else if ((bits & 0x7f800000u) == 0) out[lane] = (uint16_t)((bits & 0x80000000u) >> 16);
    else out[lane] = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
  return out;
}
