// How the outputs of a product are ordered, so that what a lane holds of them is contiguous in memory.
#pragma once

#include <cstdint>

#include <device.h>

namespace regnet_kernels {

template <int WORDS>
struct alignas(WORDS * 4) Words {
  uint32_t word[WORDS];
};

// The first of the two neighbouring channels, counted from the part's first, that lane `t` = lane % 4 holds in n-tile
// `tile`. Tiles are interleaved by fours, then twos, so that a lane's results of these tiles are contiguous in memory.
// (Bits, not / and %: for tile / 4 * 32 + tile % 4 * 2 in a loop g++ 12.2 -O2 loses the second term; the emulation's tests
// found it, -fno-tree-vrp cures it.)
template <int TILES>
__device__ __forceinline__ int channel_of(int tile, int t) {
  constexpr int quads = TILES / 4 * 4, pairs = TILES / 2 * 2;
  if (tile < quads) return (tile & 4) * 8 + t * 8 + (tile & 3) * 2;
  if (tile < pairs) return quads * 8 + t * 4 + (tile - quads) * 2;
  return pairs * 8 + t * 2;
}

}  // namespace regnet_kernels
