// The host's twin of csrc/cuda/device/wgmma.h. A warp multiplies its 16 of the 64 rows when its lanes meet.
#pragma once

#include "device.h"

namespace device {

inline uint64_t describe(uint32_t start, uint32_t pitch) { return start | uint64_t{pitch} << 32; }

inline void fence_shared() { block().fiber().fenced = true; }

inline float relu(float value) { return value < 0.f ? 0.f : value; }

inline int uniform(int value) { return value; }

template <int TILES>
void begin_products(float (&)[TILES][4]) {}

template <int TILES>
void end_products(float (&)[TILES][4]) {}

// Where eight rows' (columns') 8 numbers of a descriptor's matrix lie, bytes. matrix: along the 16 inputs; eight: along the rows.
inline uint32_t place(uint64_t described, int matrix, int eight) {
  const auto part = [&](int shift) { return static_cast<uint32_t>(described >> shift & 0x3FFF); };
  return (part(0) + matrix * part(16) + eight * part(32)) * 16;
}

// Eight rows' (columns') 16 numbers. What was never written is NaN where `written` does not forbid it: a row that nobody stores.
template <class Number>
void read_numbers(uint64_t described, int eight, bool written, int thread, float (&to)[8][16]) {
  for (int matrix = 0; matrix < 2; ++matrix) {
    for (int row = 0; row < 8; ++row) {
      const uint32_t from = place(described, matrix, eight) + row * 16;
      block().check(written ? block().shared.read(from, 16, thread) : block().shared.look(from, 16, thread));
      uint16_t bits[8];
      std::memcpy(bits, block().shared.data() + from, 16);
      for (int k = 0; k < 8; ++k) to[row][matrix * 8 + k] = widen(Number{}, bits[k]);
    }
  }
}

// rows: the warp's 16, by eights.
template <class Number, int TILES>
void multiply_columns(emulator::Warp& warp, const float (&rows)[2][8][16], uint64_t b, bool add, int thread) {
  float columns[8][16];
  for (int tile = 0; tile < TILES; ++tile) {
    read_numbers<Number>(b, tile, true, thread, columns);
    for (int lane = 0; lane < 32; ++lane) {
      auto* const sum = static_cast<float(*)[4]>(const_cast<void*>(warp.argument[lane][0]))[tile];
      for (int i = 0; i < 4; ++i) {
        float total = add ? sum[i] : 0.f;
        for (int k = 0; k < 16; ++k) total += rows[i / 2][lane / 4][k] * columns[lane % 4 * 2 + i % 2][k];
        sum[i] = total;
      }
    }
  }
}

template <class Number, int TILES>
void multiply_rows(Number, float (&sum)[TILES][4], uint64_t a, uint64_t b, int add) {
  if (!block().fiber().fenced) block().fail("products of shared memory without fence_shared");
  const uint64_t operands[3] = {a, b, static_cast<uint64_t>(add != 0)};
  block().collective("multiply_rows", sum, operands, nullptr, [](emulator::Warp& warp, int first) {
    uint64_t operand[3];
    std::memcpy(operand, warp.argument[0][1], sizeof operand);
    for (int lane = 1; lane < 32; ++lane) {
      if (std::memcmp(operand, warp.argument[lane][1], sizeof operand) != 0) return block().fail("lanes differ in their operands");
    }
    float rows[2][8][16];
    for (int half = 0; half < 2; ++half) read_numbers<Number>(operand[0], first / 32 % 4 * 2 + half, false, first, rows[half]);
    multiply_columns<Number, TILES>(warp, rows, operand[1], operand[2] != 0, first);
  });
}

}  // namespace device
