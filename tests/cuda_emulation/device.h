// The host's twin of csrc/cuda/device/device.h: the same functions, run by emulator.h. Found first on the include path.
#pragma once

#include <array>
#include <cmath>

#include "emulator.h"

#define __global__ inline
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

// Macros, not references: these are different for every fiber, and gcc would cache a reference's address.
#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index

using std::min;

namespace device {

using Shared = uint32_t;  // an offset in the block's shared memory

struct Single {};
struct Half {};
struct BFloat16 {};

inline emulator::Block& block() { return *emulator::running; }

inline Shared dynamic_shared() { return 0; }

template <class T>
T load_global(const T* from) {
  block().check_global(from, sizeof(T), false);
  return *from;
}

template <class T>
void store_global(T* to, const T& value) {
  block().check_global(to, sizeof(T), true);
  *to = value;
}

template <class T>
T load_shared(Shared from) {
  block().check(block().shared.read(from, sizeof(T), block().thread()));
  T value;
  std::memcpy(&value, block().shared.data() + from, sizeof(T));
  return value;
}

inline int load_shared_int(Shared from) { return load_shared<int>(from); }

inline void store_shared_int(Shared to, int value) {
  block().check(block().shared.write(to, 4, block().thread(), false));
  std::memcpy(block().shared.data() + to, &value, 4);
}

inline float load_shared_float(Shared from) { return load_shared<float>(from); }

inline void store_shared_float(Shared to, float value) {
  block().check(block().shared.write(to, 4, block().thread(), false));
  std::memcpy(block().shared.data() + to, &value, 4);
}

inline void load_shared_quad(float (&value)[4], Shared from) {
  const auto quad = load_shared<std::array<float, 4>>(from);
  std::copy(quad.begin(), quad.end(), value);
}

inline float shuffle_xor(float value, int mask) {
  float result = 0.f;
  block().collective("shuffle_xor", &result, &value, &mask, [](emulator::Warp& warp, int) {
    for (int lane = 0; lane < 32; ++lane) {
      const int other = lane ^ *static_cast<const int*>(warp.argument[lane][2]);
      *static_cast<float*>(const_cast<void*>(warp.argument[lane][0])) = *static_cast<const float*>(warp.argument[other][1]);
    }
  });
  return result;
}

template <int MATRICES>
void load_matrices(uint32_t (&value)[MATRICES], Shared row) {
  if (block().thread() % 32 < MATRICES * 8) block().check(block().shared.read(row, 16, block().thread()));
  block().collective("load_matrices", value, &row, nullptr, [](emulator::Warp& warp, int) {
    for (int matrix = 0; matrix < MATRICES; ++matrix) {
      for (int lane = 0; lane < 32; ++lane) {
        const Shared from = *static_cast<const Shared*>(warp.argument[matrix * 8 + lane / 4][1]);
        auto* const to = static_cast<uint32_t*>(const_cast<void*>(warp.argument[lane][0])) + matrix;
        std::memcpy(to, block().shared.data() + from + lane % 4 * 4, 4);
      }
    }
  });
}

inline void copy_async(Shared to, const void* from, bool valid) {
  emulator::Block& here = block();
  if (valid) here.check_global(from, 16, false);
  here.check(here.shared.write(to, 16, here.thread(), true));
  const emulator::Copy copy{to, from, valid, here.fiber().groups};
  if (here.schedule().eager_copies) here.finish_copy(copy);
  here.fiber().copies.push_back(copy);
  here.fiber().fenced = false;
}

inline void commit_copies() { ++block().fiber().groups; }

template <int PENDING>
void wait_copies() {
  emulator::Fiber& fiber = block().fiber();
  size_t kept = 0;
  for (const emulator::Copy& copy : fiber.copies) {
    if (copy.group >= fiber.groups - PENDING) {
      fiber.copies[kept++] = copy;
      continue;
    }
    if (!block().schedule().eager_copies) block().finish_copy(copy);
    block().shared.arrived(copy.to, 16);
  }
  fiber.copies.resize(kept);
}

inline void barrier() { block().barrier(); }

inline float widen(Half, uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return value;
}

inline float widen(BFloat16, uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// The operands' places are those of the PTX manual, mma.m16n8k16 and .m16n8k8 for 16-bit floating point.
template <class Number, int K>
void multiply(const char* operation, float* sum, const void* a, const void* b) {
  block().collective(operation, sum, a, b, [](emulator::Warp& warp, int) {
    float left[16][K], right[K][8], out[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, pair = lane % 4 * 2;
      uint16_t a[K / 2], b[K / 4];
      std::memcpy(a, warp.argument[lane][1], sizeof a);
      std::memcpy(b, warp.argument[lane][2], sizeof b);
      for (int i = 0; i < K / 2; ++i) left[row + i / 2 % 2 * 8][i / 4 * 8 + pair + i % 2] = widen(Number{}, a[i]);
      for (int i = 0; i < K / 4; ++i) right[i / 2 * 8 + pair + i % 2][row] = widen(Number{}, b[i]);
      const float* const sum = static_cast<const float*>(warp.argument[lane][0]);
      for (int i = 0; i < 4; ++i) out[row + i / 2 * 8][pair + i % 2] = sum[i];
    }
    for (int m = 0; m < 16; ++m) {
      for (int k = 0; k < K; ++k) {
        for (int n = 0; n < 8; ++n) out[m][n] += left[m][k] * right[k][n];
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      float* const sum = static_cast<float*>(const_cast<void*>(warp.argument[lane][0]));
      for (int i = 0; i < 4; ++i) sum[i] = out[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
  });
}

template <class Number>
void multiply_k16(Number, float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  multiply<Number, 16>("multiply_k16", sum, a, b);
}

template <class Number>
void multiply_k8(Number, float (&sum)[4], const uint32_t (&a)[2], uint32_t b) {
  multiply<Number, 8>("multiply_k8", sum, a, &b);
}

inline uint16_t narrow(Half, float value) {
  const _Float16 half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}

inline uint16_t narrow(BFloat16, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <class Number>
uint32_t pack(Number number, float low, float high) {
  return narrow(number, low) | uint32_t{narrow(number, high)} << 16;
}

}  // namespace device
