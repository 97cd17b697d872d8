// What the kernels ask of the device, as PTX for compute capability 8.0 and newer. The kernels touch memory only
// through these functions, so a host program can put its own `device.h` first and run the same kernel source.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace device {

using Shared = uint32_t;  // an address in the shared memory window

struct Single {};
struct Half {};
struct BFloat16 {};

__device__ __forceinline__ Shared dynamic_shared() {
  extern __shared__ __align__(16) unsigned char buffer[];
  return static_cast<Shared>(__cvta_generic_to_shared(buffer));
}

template <class T>
__device__ __forceinline__ T load_global(const T* from) {
  return *from;
}

template <class T>
__device__ __forceinline__ void store_global(T* to, const T& value) {
  *to = value;
}

__device__ __forceinline__ int load_shared_int(Shared from) {
  int value;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(value) : "r"(from));
  return value;
}

__device__ __forceinline__ void store_shared_int(Shared to, int value) {
  asm volatile("st.shared.s32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}

__device__ __forceinline__ float load_shared_float(Shared from) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(from));
  return value;
}

__device__ __forceinline__ void load_shared_quad(float (&value)[4], Shared from) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value[0]), "=f"(value[1]), "=f"(value[2]), "=f"(value[3])
               : "r"(from));
}

__device__ __forceinline__ void store_shared_float(Shared to, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(value) : "memory");
}

// The value of lane `lane ^ mask`; all lanes of the warp take part.
__device__ __forceinline__ float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xFFFFFFFF, value, mask); }

// Four (two) 8x8 matrices of 16-bit numbers; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&value)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(value[0]), "=r"(value[1]), "=r"(value[2]), "=r"(value[3])
               : "r"(row));
}

__device__ __forceinline__ void load_matrices(uint32_t (&value)[2], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(value[0]), "=r"(value[1])
               : "r"(row));
}

// Starts a copy of 16 bytes to shared memory; zeros arrive where `valid` is false (`from` must still be an address).
__device__ __forceinline__ void copy_async(Shared to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of this thread's committed groups are under way.
template <int PENDING>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void barrier() { __syncthreads(); }

// sum += a (16 x k, rows) * b (k x 8, columns), float32 sums; the operands of one warp.
#define REGNET_MULTIPLY(NUMBER, TYPE)                                                                                   \
  __device__ __forceinline__ void multiply_k16(NUMBER, float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                                                \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                  \
  }                                                                                                                    \
  __device__ __forceinline__ void multiply_k8(NUMBER, float (&sum)[4], const uint32_t (&a)[2], uint32_t b) {           \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." TYPE "." TYPE                                                 \
                 ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                                            \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(b));                                                                      \
  }
REGNET_MULTIPLY(Half, "f16")
REGNET_MULTIPLY(BFloat16, "bf16")
#undef REGNET_MULTIPLY

__device__ __forceinline__ float widen(Half, uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

__device__ __forceinline__ float widen(BFloat16, uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }

// Two float32 rounded to nearest even, `low` in the lower half.
__device__ __forceinline__ uint32_t pack(Half, float low, float high) {
  const __half2 value = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(value);
}

__device__ __forceinline__ uint32_t pack(BFloat16, float low, float high) {
  const __nv_bfloat162 value = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(value);
}

}  // namespace device
