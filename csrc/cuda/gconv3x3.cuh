// y = activation(grouped 3x3 convolution of x + bias) on channels_last memory, 16-bit numbers, tensor cores.
//
// A block computes a tile of at most 128 output pixels for one or more groups, `TILES` * 8 outputs of each. It walks
// over the groups' inputs in chunks of 16 channels: the chunk's halo (every input pixel that the tile sees, once) and
// its weights come by asynchronous copies into one of two stages while the other is multiplied. The nine taps read the
// same halo at nine offsets. A group of an odd number of 8-channel units ends with a chunk of 8: there two taps make
// up the 16 rows of a product, and the ninth is a product of 8 rows, so that no padding is multiplied (a zero times an
// infinity of another group would be a NaN). Groups of 8 come in pairs, a unit each (`TILES` == 1).
//
// Weights are read as PyTorch's channels_last has them, (C, 3, 3, group_width): the inputs of an output and tap lie
// together, which is a column of a product's right operand, as the matrix loads want it. The loads take any eight rows,
// so the order of the outputs (`channel_of`) costs nothing.
//
// With plan.conv.pool the tile's sums of the results, before they are rounded, are stored as well: each warp adds its
// pixels by shuffles, then the warps' sums are added in their order. No atomics: every run gives the same bits.
#pragma once

#include <cstdint>

#include <device.h>

#include "activation.cuh"
#include "columns.cuh"
#include "gconv3x3_plan.h"

namespace regnet_kernels {

// Where the 8 inputs `half` of 16 of a column lie among the 256 bytes of a tile: four columns fill the 32 banks, and the next
// four have their halves the other way around, so that the eight rows of a matrix load share no bank.
__device__ __forceinline__ int place16(int column, int half) { return column * 32 + (half ^ column >> 2) * 16; }

// Byte offsets of the nine taps from a pixel's place in the halo.
struct Taps {
  int row, column[3];
  __device__ __forceinline__ int operator[](int tap) const { return tap / 3 * row + column[tap % 3]; }
};

template <class Number, int TILES>
struct Product {
  static constexpr int kSums = TILES == 1 ? 2 : TILES;
  float sum[2][kSums][4];  // 2 x 16 pixels, 8 channels each

  // 16 channels of one group; each tap is a product of 16 rows. `weights`: see `place16`.
  __device__ __forceinline__ void chunk16(const int (&pixel)[2], const Taps& taps, device::Shared halo,
                                          device::Shared weights, int lane) {
    const device::Shared from = halo + (lane >> 4) * 16;
    // Matrices: both halves of the inputs for one tile, then for the next.
    const device::Shared columns = weights + (lane >> 4) * kTileBytes + place16(lane % 8, lane / 8 % 2);
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
      uint32_t a[2][4];
      device::load_matrices(a[0], from + pixel[0] + taps[tap]);
      device::load_matrices(a[1], from + pixel[1] + taps[tap]);
      multiply_tiles(a, columns + tap * (TILES * kTileBytes), kTileBytes, 0);
    }
  }

  // The products of 16 rows with all tiles, whose columns lie `pitch` bytes after each other, into the sums from `first` on.
  __device__ __forceinline__ void multiply_tiles(const uint32_t (&a)[2][4], device::Shared columns, int pitch, int first) {
    constexpr int kPaired = TILES < 8 ? TILES / 2 * 2 : 0;  // two tiles a load, where registers allow it
#pragma unroll
    for (int tile = 0; tile < kPaired; tile += 2) {
      uint32_t b[4];
      device::load_matrices(b, columns + tile * pitch);
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
      device::multiply_k16(Number{}, sum[0][first + tile], a[0], left);
      device::multiply_k16(Number{}, sum[1][first + tile], a[1], left);
      device::multiply_k16(Number{}, sum[0][first + tile + 1], a[0], right);
      device::multiply_k16(Number{}, sum[1][first + tile + 1], a[1], right);
    }
#pragma unroll
    for (int tile = kPaired; tile < TILES; ++tile) {
      uint32_t b[2];
      device::load_matrices(b, columns + tile * pitch);
      device::multiply_k16(Number{}, sum[0][first + tile], a[0], b);
      device::multiply_k16(Number{}, sum[1][first + tile], a[1], b);
    }
  }

  // 8 channels (unit `halo` points to) of one group into the sums [first, first + TILES): taps two by two. `weights`: 16
  // bytes for each tap, tile and column.
  __device__ __forceinline__ void chunk8(const int (&pixel)[2], const Taps& taps, device::Shared halo,
                                         device::Shared weights, int lane, int first) {
    // Matrices: both taps of a pair for one tile, then for the next.
    const device::Shared columns = weights + (lane / 8 % 2 * TILES + (lane >> 4)) * (kTileBytes / 2) + lane % 8 * 16;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const device::Shared from = halo + (lane < 16 ? taps[2 * step] : taps[2 * step + 1]);
      uint32_t a[2][4];
      device::load_matrices(a[0], from + pixel[0]);
      device::load_matrices(a[1], from + pixel[1]);
      multiply_tiles(a, columns + 2 * step * (TILES * kTileBytes / 2), kTileBytes / 2, first);
    }
    uint32_t a[2][2];
    device::load_matrices(a[0], halo + taps[8] + pixel[0]);
    device::load_matrices(a[1], halo + taps[8] + pixel[1]);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
      uint32_t b[2];  // of the last two taps
      device::load_matrices(b, columns + (7 * TILES + tile) * (kTileBytes / 2));
      device::multiply_k8(Number{}, sum[0][first + tile], a[0], b[1]);
      device::multiply_k8(Number{}, sum[1][first + tile], a[1], b[1]);
    }
  }

  // Every sum starts as its channel's bias; `channels`: how many of the block's channels from `bias` on exist.
  __device__ __forceinline__ void start(const float* bias, int channels, int lane) {
#pragma unroll
    for (int tile = 0; tile < kSums; ++tile) {
      const int channel = this->channel(tile, lane);
      const bool valid = channel < channels;
      const float low = valid ? device::load_global(bias + channel) : 0.f;
      const float high = valid ? device::load_global(bias + channel + 1) : 0.f;
#pragma unroll
      for (int rows = 0; rows < 2; ++rows) {
        sum[rows][tile][0] = sum[rows][tile][2] = low;
        sum[rows][tile][1] = sum[rows][tile][3] = high;
      }
    }
  }

  static __device__ __forceinline__ int channel(int tile, int lane) {
    return TILES == 1 ? tile * 8 + lane % 4 * 2 : channel_of<TILES>(tile, lane % 4);
  }

  __device__ __forceinline__ void apply(int activation) {
#pragma unroll
    for (int rows = 0; rows < 2; ++rows) {
#pragma unroll
      for (int tile = 0; tile < kSums; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[rows][tile][i] = activate(sum[rows][tile][i], activation);
      }
    }
  }

  // Puts the warp's sum of each channel at `to`, kSums * 8 floats for each of the tile's `images` images of `map` pixels.
  // `place` as for `finish`; `first`: the warp's first pixel of the tile.
  __device__ __forceinline__ void reduce(device::Shared to, const int (&place)[2][2], int first, int map, int images,
                                         int lane) const {
#pragma unroll 1
    for (int image = 0; image < images; ++image) {
      bool mine[2][2];
#pragma unroll
      for (int rows = 0; rows < 2; ++rows) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int pixel = first + rows * 16 + half * 8 + lane / 4 - image * map;
          mine[rows][half] = place[rows][half] >= 0 && pixel >= 0 && pixel < map;
        }
      }
#pragma unroll
      for (int tile = 0; tile < kSums; ++tile) {
        float low = 0.f, high = 0.f;
#pragma unroll
        for (int rows = 0; rows < 2; ++rows) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if (!mine[rows][half]) continue;
            low += sum[rows][tile][half * 2];
            high += sum[rows][tile][half * 2 + 1];
          }
        }
#pragma unroll
        for (int mask = 4; mask < 32; mask *= 2) {
          low += device::shuffle_xor(low, mask);
          high += device::shuffle_xor(high, mask);
        }
        if (lane >= 4) continue;
        const device::Shared at = to + (image * kSums * 8 + channel(tile, lane)) * 4;
        device::store_shared_float(at, low);
        device::store_shared_float(at + 4, high);
      }
    }
  }

  // Stores the tiles [FIRST, FIRST + COUNT) of 8 pixels; this lane's channels in them are contiguous.
  template <int FIRST, int COUNT>
  __device__ __forceinline__ void store(uint16_t* to, int rows, int half, int channels, int lane) const {
    const int channel = this->channel(FIRST, lane);
    if (channel >= channels) return;
    Words<COUNT> out;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const float* const pair = &sum[rows][FIRST + i][half * 2];
      out.word[i] = device::pack(Number{}, pair[0], pair[1]);
    }
    device::store_global(reinterpret_cast<Words<COUNT>*>(to + channel), out);
  }

  // `y` points to the block's first channel of the output's first pixel; `place`: this lane's pixels, -1 for none.
  __device__ __forceinline__ void finish(uint16_t* y, const int (&place)[2][2], size_t pitch, int channels, int lane) const {
#pragma unroll
    for (int rows = 0; rows < 2; ++rows) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (place[rows][half] < 0) continue;
        uint16_t* const to = y + place[rows][half] * pitch;
        constexpr int quads = TILES / 4 * 4, pairs = TILES / 2 * 2;
        if constexpr (TILES == 1) store<1, 1>(to, rows, half, channels, lane);
        if constexpr (TILES >= 4) store<0, 4>(to, rows, half, channels, lane);
        if constexpr (TILES == 8) store<4, 4>(to, rows, half, channels, lane);
        if constexpr (pairs > quads) store<quads, 2>(to, rows, half, channels, lane);
        if constexpr (TILES > pairs) store<pairs, 1>(to, rows, half, channels, lane);
      }
    }
  }
};

// The input pixel behind each place of the halo (image, row and column as one number; -1: padding). With stride 2 the
// even columns come first, then the odd ones: so neighbouring outputs read neighbouring places at every tap.
__device__ __forceinline__ void make_halo_table(const GroupedConvPlan& plan, device::Shared table, int first_image,
                                                int first_row, int first_column) {
  const GroupedConv& conv = plan.conv;
  for (int place = threadIdx.x; place < plan.halo_pixels; place += kThreads) {
    int column = place % plan.halo_width;
    const int line = place / plan.halo_width;
    if (conv.stride == 2) column = column <= plan.tile_width ? 2 * column : 2 * (column - plan.tile_width) - 1;
    const int image = first_image + line / plan.halo_height;
    const int row = first_row * conv.stride + line % plan.halo_height - 1;
    column += first_column * conv.stride - 1;
    const bool inside = image < conv.images && row >= 0 && row < conv.height && column >= 0 && column < conv.width;
    device::store_shared_int(table + place * 4, inside ? (image * conv.height + row) * conv.width + column : -1);
  }
}

// x (N, H, W, C), weight (C, 3, 3, group_width), bias (C), y (N, Ho, Wo, C), sums (N, tiles_down * tiles_across, C) if
// pooled. All 16-byte aligned, N > 0.
// Grid: plan.grid_x tiles of pixels, plan.grid_y slices of channels; kThreads threads; plan.shared_bytes.
template <class Number, int TILES>
__global__ void __launch_bounds__(kThreads, TILES > 4 ? 3 : 4)  // left alone, ptxas stops at 64 or 128 registers and spills
    gconv3x3(const uint16_t* __restrict__ x, const uint16_t* __restrict__ weight, const float* __restrict__ bias,
             uint16_t* __restrict__ y, float* __restrict__ sums, const GroupedConvPlan plan) {
  constexpr bool PAIRED = TILES == 1;
  const GroupedConv& conv = plan.conv;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int units = conv.group_width / 8;

  const int strip = blockIdx.x / plan.tiles_across;
  const int first_column = blockIdx.x % plan.tiles_across * plan.tile_width;
  const int first_row = strip % plan.tiles_down * plan.tile_height;
  const int first_image = strip / plan.tiles_down * plan.tile_images;
  const int part = blockIdx.y % plan.parts;
  const int first_group = blockIdx.y / plan.parts * plan.groups_per_block;
  const int group_count = min(plan.groups - first_group, plan.groups_per_block);
  const int items = PAIRED ? (group_count + 1) / 2 : group_count * plan.chunks;

  const device::Shared table = device::dynamic_shared();
  const device::Shared warp_sums = table + plan.table_bytes, stages = warp_sums + plan.sums_bytes;
  make_halo_table(plan, table, first_image, first_row, first_column);
  device::barrier();

  const auto group_of = [&](int item) { return first_group + (PAIRED ? item * 2 : item / plan.chunks); };
  const auto chunk_of = [&](int item) { return PAIRED ? 0 : item % plan.chunks; };

  const auto load = [&](int item) {
    const device::Shared halo = stages + item % 2 * plan.stage_bytes, weights = halo + plan.halo_bytes;
    const int group = group_of(item), chunk = chunk_of(item);
    const int here = PAIRED ? min(2, first_group + group_count - group) : min(2, units - chunk * 2);
    const uint16_t* const channels = x + group * conv.group_width + chunk * 16;
#pragma unroll(TILES < 8 ? 4 : 2)
    for (int i = thread; i < plan.halo_pixels * 2; i += kThreads) {
      const int place = i / 2, unit = i % 2;
      if (unit >= here) continue;
      const int pixel = device::load_shared_int(table + place * 4);
      const uint16_t* const from = pixel < 0 ? x : channels + static_cast<size_t>(pixel) * conv.channels + unit * 8;
      device::copy_async(halo + place * kPixelPitch + unit * 16, from, pixel >= 0);
    }
    const int row = 9 * conv.group_width;  // weights of an output
    const int first = (group * conv.group_width + part * (TILES * 8)) * row + chunk * 16;  // fits: see launch_gconv3x3
    const int outputs = conv.group_width - part * (TILES * 8);  // of the part, if it is the last
    if constexpr (PAIRED) {
#pragma unroll 1
      for (int i = thread / 8; i < here * 9; i += kThreads / 8) {
        const int column = thread % 8, tap = i % 9;
        device::copy_async(weights + i * (kTileBytes / 2) + column * 16, weight + (first + (i / 9 * 8 + column) * row + tap * 8), true);
      }
    } else if (here == 2) {
      const int column = thread / 2 % 8, unit = thread % 2;
#pragma unroll 1
      for (int i = thread / 16; i < 9 * TILES; i += kThreads / 16) {
        const int output = channel_of<TILES>(i % TILES, column / 2) + column % 2, tap = i / TILES;
        const bool valid = output < outputs;
        device::copy_async(weights + i * kTileBytes + place16(column, unit),
                           weight + (valid ? first + output * row + tap * conv.group_width + unit * 8 : 0), valid);
      }
    } else {
      const int column = thread % 8;
#pragma unroll 1
      for (int i = thread / 8; i < 9 * TILES; i += kThreads / 8) {
        const int output = channel_of<TILES>(i % TILES, column / 2) + column % 2, tap = i / TILES;
        const bool valid = output < outputs;
        device::copy_async(weights + i * (kTileBytes / 2) + column * 16,
                           weight + (valid ? first + output * row + tap * conv.group_width : 0), valid);
      }
    }
    device::commit_copies();
  };
  load(0);

  // The lane's row of the left operand (rows 0..15, the lanes above 15 again) and its four output pixels.
  const int map = plan.tile_height * plan.tile_width, tile_pixels = map * plan.tile_images;
  int pixel[2], place[2][2];
#pragma unroll
  for (int rows = 0; rows < 2; ++rows) {
    const int first = warp * 32 + rows * 16;
    const int own = first + lane % 16 < tile_pixels ? first + lane % 16 : 0;  // beyond the tile: computed, not stored
    const int line = own / map * plan.halo_height + own % map / plan.tile_width * conv.stride;
    pixel[rows] = (line * plan.halo_width + own % plan.tile_width) * kPixelPitch;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int out = first + half * 8 + lane / 4;
      const int image = first_image + out / map, row = first_row + out % map / plan.tile_width;
      const int column = first_column + out % plan.tile_width;
      const bool valid = out < tile_pixels && image < conv.images && row < plan.out_height && column < plan.out_width;
      place[rows][half] = valid ? (image * plan.out_height + row) * plan.out_width + column : -1;
    }
  }
  const bool busy = warp * 32 < tile_pixels;
  const int odd = (conv.stride == 2 ? plan.tile_width + 1 : 1) * kPixelPitch;
  const Taps taps{plan.halo_width * kPixelPitch, {0, odd, (conv.stride == 2 ? 1 : 2) * kPixelPitch}};

  // Buffer `group % 2` of the sums: image by image of warp by warp.
  constexpr int kChannels = Product<Number, TILES>::kSums * 8;
  const auto sums_of = [&](int item, int warp) {
    return warp_sums + (item / plan.chunks % 2 * (kThreads / 32) + warp) * (plan.tile_images * kChannels * 4);
  };
  // Adds up and stores the sums of the group that `item` ended.
  const auto add_up = [&](int item) {
    const int channel = group_of(item) * conv.group_width + part * (TILES * 8);
    const int channels = PAIRED ? (first_group + group_count - group_of(item)) * 8 : conv.group_width - part * (TILES * 8);
    const int tiles = plan.tiles_down * plan.tiles_across, pixels = plan.tile_images * plan.tile_height * plan.tile_width;
#pragma unroll 1
    for (int i = threadIdx.x; i < plan.tile_images * kChannels; i += kThreads) {
      const int image = blockIdx.x / tiles * plan.tile_images + i / kChannels;
      if (image >= conv.images || i % kChannels >= channels) continue;
      float sum = 0.f;
#pragma unroll 1
      for (int from = 0; from * 32 < pixels; ++from) sum += device::load_shared_float(sums_of(item, from) + i * 4);
      const size_t row = static_cast<size_t>(image) * tiles + blockIdx.x % tiles;
      device::store_global(sums + row * conv.channels + channel + i % kChannels, sum);
    }
  };

  Product<Number, TILES> product;
  for (int item = 0; item < items; ++item) {
    device::wait_copies<0>();
    device::barrier();  // this item has arrived for all; all have left the other stage
    if (item + 1 < items) load(item + 1);
    if (conv.pool && item > 0 && chunk_of(item) == 0) add_up(item - 1);
    if (!busy) continue;
    const device::Shared halo = stages + item % 2 * plan.stage_bytes, weights = halo + plan.halo_bytes;
    const int group = group_of(item), chunk = chunk_of(item);
    const int channel = group * conv.group_width + part * (TILES * 8);
    const int channels = PAIRED ? (first_group + group_count - group) * 8 : conv.group_width - part * (TILES * 8);
    if (chunk == 0) product.start(bias + channel, channels, lane);
    if constexpr (PAIRED) {
      product.chunk8(pixel, taps, halo, weights, lane, 0);
      if (channels > 8) product.chunk8(pixel, taps, halo + 16, weights + 9 * (kTileBytes / 2), lane, 1);
    } else if (units - chunk * 2 >= 2) {
      product.chunk16(pixel, taps, halo, weights, lane);
    } else {
      product.chunk8(pixel, taps, halo, weights, lane, 0);
    }
    if (chunk + 1 < plan.chunks) continue;
    product.apply(conv.activation);
    product.finish(y + channel, place, conv.channels, channels, lane);
    if (conv.pool) product.reduce(sums_of(item, warp), place, warp * 32, map, plan.tile_images, lane);
  }
  if (!conv.pool) return;
  device::barrier();  // the last group's sums are there
  add_up(items - 1);
}

}  // namespace regnet_kernels
