// Hopper's matrix instructions (wgmma, compute capability 9.0 as sm_90a): the products of a warpgroup's 64 rows with both operands in
// shared memory. Laid out without a swizzle: eight rows (columns) of 8 numbers, 16 bytes each, lie together in 128 bytes; a
// descriptor says where the first such matrix is, how far its neighbour along the 16 inputs (`lead`) and how far the next eight
// rows (columns) lie (`pitch`).
#pragma once

#include "device.h"

namespace device {

// start, lead (in the upper half of `start`) and pitch in units of 16 bytes, below 2^14.
__device__ __forceinline__ uint64_t describe(uint32_t start, uint32_t pitch) { return start | uint64_t{pitch} << 32; }

// Makes what this thread wrote to shared memory (by stores or asynchronous copies that it waited for) visible to `multiply_rows`.
__device__ __forceinline__ void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A number that is the same for all lanes, as one that the compiler knows to be.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xFFFFFFFF, value, 0); }

// max(value, 0); a NaN stays a NaN.
__device__ __forceinline__ float relu(float value) {
  float result;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(value));
  return result;
}

// The compiler moves nothing that touches the sums across this.
template <int TILES>
__device__ __forceinline__ void hold(float (&sum)[TILES][4]) {
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sum[tile][i])::"memory");
  }
}

// Around the products of one sum.
template <int TILES>
__device__ __forceinline__ void begin_products(float (&sum)[TILES][4]) {
  hold(sum);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

template <int TILES>
__device__ __forceinline__ void end_products(float (&sum)[TILES][4]) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  hold(sum);
}

// sum = a (64 rows x 16) * b (16 x TILES * 8 columns), plus the sum where `add` is not 0. Warp w of the warpgroup holds the rows from
// 16 w on: of n-tile `tile` this lane's row lane / 4 in sum[tile][0..1], row lane / 4 + 8 in [2..3], columns lane % 4 * 2 and the next.

__device__ __forceinline__ void multiply_rows(Half, float (&sum)[1][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %6, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 "
      "{%0, %1, %2, %3}, %4, %5, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(BFloat16, float (&sum)[1][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %6, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3}, %4, %5, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(Half, float (&sum)[2][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %10, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(BFloat16, float (&sum)[2][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %10, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(Half, float (&sum)[3][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %14, 0; wgmma.mma_async.sync.aligned.m64n24k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11}, %12, %13, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(BFloat16, float (&sum)[3][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %14, 0; wgmma.mma_async.sync.aligned.m64n24k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11}, %12, %13, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(Half, float (&sum)[4][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(BFloat16, float (&sum)[4][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(Half, float (&sum)[5][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %22, 0; wgmma.mma_async.sync.aligned.m64n40k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19}, %20, %21, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(BFloat16, float (&sum)[5][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %22, 0; wgmma.mma_async.sync.aligned.m64n40k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19}, %20, %21, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(Half, float (&sum)[6][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %26, 0; wgmma.mma_async.sync.aligned.m64n48k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23}, %24, %25, "
      "add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]), "+f"(sum[5][0]),
        "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(BFloat16, float (&sum)[6][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %26, 0; wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23}, %24, %25, "
      "add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]), "+f"(sum[5][0]),
        "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(Half, float (&sum)[7][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %30, 0; wgmma.mma_async.sync.aligned.m64n56k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27}, %28, %29, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]), "+f"(sum[5][0]),
        "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3]), "+f"(sum[6][0]), "+f"(sum[6][1]), "+f"(sum[6][2]), "+f"(sum[6][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(BFloat16, float (&sum)[7][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %30, 0; wgmma.mma_async.sync.aligned.m64n56k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27}, %28, %29, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]), "+f"(sum[5][0]),
        "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3]), "+f"(sum[6][0]), "+f"(sum[6][1]), "+f"(sum[6][2]), "+f"(sum[6][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(Half, float (&sum)[8][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27, %28, %29, %30, %31}, %32, %33, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]), "+f"(sum[5][0]),
        "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3]), "+f"(sum[6][0]), "+f"(sum[6][1]), "+f"(sum[6][2]), "+f"(sum[6][3]),
        "+f"(sum[7][0]), "+f"(sum[7][1]), "+f"(sum[7][2]), "+f"(sum[7][3])
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_rows(BFloat16, float (&sum)[8][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27, %28, %29, %30, %31}, %32, %33, add, 1, 1, 0, 0; }"
      : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3]), "+f"(sum[1][0]), "+f"(sum[1][1]), "+f"(sum[1][2]),
        "+f"(sum[1][3]), "+f"(sum[2][0]), "+f"(sum[2][1]), "+f"(sum[2][2]), "+f"(sum[2][3]), "+f"(sum[3][0]), "+f"(sum[3][1]),
        "+f"(sum[3][2]), "+f"(sum[3][3]), "+f"(sum[4][0]), "+f"(sum[4][1]), "+f"(sum[4][2]), "+f"(sum[4][3]), "+f"(sum[5][0]),
        "+f"(sum[5][1]), "+f"(sum[5][2]), "+f"(sum[5][3]), "+f"(sum[6][0]), "+f"(sum[6][1]), "+f"(sum[6][2]), "+f"(sum[6][3]),
        "+f"(sum[7][0]), "+f"(sum[7][1]), "+f"(sum[7][2]), "+f"(sum[7][3])
      : "l"(a), "l"(b), "r"(add));
}

}  // namespace device
