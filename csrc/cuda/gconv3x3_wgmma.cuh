// y = activation(grouped 3x3 convolution of x + bias) on channels_last memory, 16-bit numbers, with Hopper's matrix instructions.
//
// A block owns a slice of the channels, some whole groups or a part of one group's outputs, whose weights stay in its shared memory,
// and goes through tiles of pixels. A tile's halo is copied unit by unit: 8 channels of a pixel are 16 bytes, and those of a line's
// pixels lie together. Then the 64 rows of a product, 8 lines of 8 output pixels, are 8 matrices of 128 bytes a line apart, and any
// tap of them is the same matrices from another place on: the product reads the halo itself, whatever the tap, and 16 inputs are
// any two (tap, unit), one of which comes later in memory. While a tile is multiplied, the next one's halo is copied.
//
// The weights' rows are permuted so that a lane's results are contiguous in memory (`channel_of`). With conv.pool the tile's sums of the
// results, before they are rounded, are stored as well: lanes by shuffles, then the warps' in their order. No atomics.
#pragma once

#include <wgmma.h>

#include "activation.cuh"
#include "columns.cuh"
#include "gconv3x3_wgmma_plan.h"

namespace regnet_kernels {

// A warp's 16 of the 64 rows: two lines of 8 pixels, TILES * 8 channels.
template <class Number, int TILES>
struct Rows {
  float sum[TILES][4];

  static __device__ __forceinline__ int channel(int tile, int lane) {
    return TILES == 1 ? lane % 4 * 2 : channel_of<TILES>(tile, lane % 4);
  }

  // Stores the tiles [FIRST, FIRST + COUNT) of one line; this lane's channels in them are contiguous.
  template <int FIRST, int COUNT>
  __device__ __forceinline__ void store(uint16_t* to, int line, int channels, int lane) const {
    const int channel = this->channel(FIRST, lane);
    if (channel >= channels) return;
    Words<COUNT> out;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) out.word[i] = device::pack(Number{}, sum[FIRST + i][line * 2], sum[FIRST + i][line * 2 + 1]);
    device::store_global(reinterpret_cast<Words<COUNT>*>(to + channel), out);
  }

  __device__ __forceinline__ void store_line(uint16_t* to, int line, int channels, int lane) const {
    constexpr int quads = TILES / 4 * 4, pairs = TILES / 2 * 2;
    if constexpr (TILES >= 4) store<0, 4>(to, line, channels, lane);
    if constexpr (TILES == 8) store<4, 4>(to, line, channels, lane);
    if constexpr (pairs > quads) store<quads, 2>(to, line, channels, lane);
    if constexpr (TILES > pairs) store<pairs, 1>(to, line, channels, lane);
  }
};

// x (N, H, W, C), weight (C, 3, 3, group_width), bias (C), y (N, Ho, Wo, C), sums (N, tiles_down * tiles_across, C) if pooled. All
// 16-byte aligned, N > 0. Grid: plan.slices * blocks; kWgmmaThreads threads; plan.shared_bytes. blocks: of a slice, at most plan.spatial.
template <class Number, int TILES, bool RELU, bool POOL>
__global__ void __launch_bounds__(kWgmmaThreads, TILES > 4 ? 2 : 3)
    gconv3x3_wgmma(const uint16_t* __restrict__ x, const uint16_t* __restrict__ weight, const float* __restrict__ bias,
                   uint16_t* __restrict__ y, float* __restrict__ sums, const WgmmaPlan plan, const int blocks) {
  constexpr int kColumns = TILES * 8;
  const GroupedConv& conv = plan.conv;
  const int thread = threadIdx.x, lane = thread % 32, warp = device::uniform(thread / 32), warpgroup = warp / 4;
  const int slice = static_cast<int>(blockIdx.x) % plan.slices, first_tile = static_cast<int>(blockIdx.x) / plan.slices;
  const int part = slice % plan.parts, first_group = slice / plan.parts * plan.tile.groups;
  const int groups = min(plan.groups - first_group, plan.tile.groups), units = groups * plan.units;
  const int first_channel = first_group * conv.group_width, first_output = part * kColumns;
  const int outputs = min(conv.group_width - first_output, kColumns);  // of a group
  const int taps = 9 * plan.units;

  const device::Shared weights = device::dynamic_shared(), halos = weights + plan.weight_bytes;
  const device::Shared table = halos + plan.tile.stages * plan.halo_bytes, warp_sums = table + plan.table_bytes;

  // The places of the halo's pixels, and their image, line and column as one number.
  const int pixels = plan.tile.images * plan.real_lines * plan.real_columns;
  for (int i = thread; i < pixels; i += kWgmmaThreads) {
    const int column = i % plan.real_columns, line = i / plan.real_columns % plan.real_lines;
    const int image = i / plan.real_columns / plan.real_lines;
    const int across = conv.stride == 1 ? column : column % 2 * (plan.tile.width + 1) + column / 2;
    device::store_shared_int(table + i * 8, image * plan.image_places + line * plan.line + across);
    device::store_shared_int(table + i * 8 + 4, image << 20 | line << 10 | column);
  }
  // Weights: of each group and step the two units, of each the columns.
  for (int i = thread; i < groups * plan.steps * 2 * kColumns; i += kWgmmaThreads) {
    const int column = i % kColumns, index = i / kColumns % (2 * plan.steps), group = i / kColumns / (2 * plan.steps);
    const int output = TILES == 1 ? column : channel_of<TILES>(column / 8, column % 8 / 2) + column % 2;
    const bool valid = index < taps && output < outputs;
    const int nth = index % 3, unit = index / 9;
    const int tap = index % 9 - nth + (conv.stride == 1 || nth == 0 ? nth : 3 - nth);  // as plan_wgmma orders them
    const int row = (first_group + group) * conv.group_width + first_output + output;
    device::copy_async(weights + i * 16, valid ? weight + (row * 9 + tap) * conv.group_width + unit * 8 : weight, valid);
  }
  device::barrier();  // the table is there

  const auto load = [&](int tile, int stage) {
    const int strip = tile / plan.tiles_across;
    const int first_column = tile % plan.tiles_across * plan.tile.width * conv.stride - 1;
    const int first_line = strip % plan.tiles_down * plan.tile.height * conv.stride - 1;
    const int first_image = strip / plan.tiles_down * plan.tile.images;
    const device::Shared halo = halos + stage * plan.halo_bytes;
    const int more_pixels = kWgmmaThreads / units, more_units = kWgmmaThreads % units;
    int pixel = thread / units, unit = thread % units;
#pragma unroll 4
    while (pixel < pixels) {
      const int place = device::load_shared_int(table + pixel * 8), where = device::load_shared_int(table + pixel * 8 + 4);
      const int image = first_image + (where >> 20), line = first_line + (where >> 10 & 1023), column = first_column + (where & 1023);
      const bool valid = image < conv.images && line >= 0 && line < conv.height && column >= 0 && column < conv.width;
      const int from = valid ? (image * conv.height + line) * conv.width + column : 0;  // fewer than 2^31 pixels
      device::copy_async(halo + (unit * plan.plane + place) * 16, x + static_cast<int64_t>(from) * conv.channels + first_channel + unit * 8,
                         valid);
      pixel += more_pixels;
      unit += more_units;
      if (unit >= units) {
        unit -= units;
        ++pixel;
      }
    }
  };
  const auto sums_of = [&](int of, int image, int channel) {
    return warp_sums + ((of * plan.tile.images + image) * plan.tile.groups * kColumns + channel) * 4;
  };

  load(first_tile, 0);
  for (int tile = first_tile, count = 0; tile < plan.spatial; tile += blocks, ++count) {
    const int stage = plan.tile.stages == 2 ? count % 2 : 0;
    const bool more = tile + blocks < plan.spatial;
    device::commit_copies();  // this tile's
    if (plan.tile.stages == 2 && more) load(tile + blocks, 1 - stage);
    if (plan.tile.stages == 2) {
      device::commit_copies();
      device::wait_copies<1>();
    } else {
      device::wait_copies<0>();
    }
    device::fence_shared();
    device::barrier();  // the halo has arrived for all; all have added up the last tile's sums

    const int strip = tile / plan.tiles_across;
    const int first_column = tile % plan.tiles_across * plan.tile.width, first_line = strip % plan.tiles_down * plan.tile.height;
    const int first_image = strip / plan.tiles_down * plan.tile.images;
    const int last_column = min(first_column + plan.tile.width, plan.out_width);
    const int last_line = min(first_line + plan.tile.height, plan.out_height);
    const uint32_t halo = (halos + stage * plan.halo_bytes) / 16, pitch = conv.stride * plan.line;
    int item = 0;
#pragma unroll 1
    for (int group = 0; group < groups; ++group) {
      const int channel = first_channel + group * conv.group_width + first_output;
      float low[TILES], high[TILES];
#pragma unroll
      for (int i = 0; i < TILES; ++i) {
        const int at = Rows<Number, TILES>::channel(i, lane);
        low[i] = at < outputs ? device::load_global(bias + channel + at) : 0.f;
        high[i] = at < outputs ? device::load_global(bias + channel + at + 1) : 0.f;
      }
#pragma unroll 1
      for (int image = 0; image < plan.tile.images; ++image) {
        float pool[TILES][2] = {};
#pragma unroll 1
        for (int down = 0; down < plan.tile.height; down += 8) {
#pragma unroll 1
          for (int across = 0; across < plan.tile.width; across += 8, ++item) {
            if (item % 2 != warpgroup) continue;
            Rows<Number, TILES> rows = {};
            const uint32_t start = halo + group * plan.units * plan.plane + image * plan.image_places + down * pitch + across;
            const uint32_t columns = (weights / 16 + group * plan.steps * 2 * kColumns) | kColumns << 16;
            device::begin_products(rows.sum);
#pragma unroll 1
            for (int step = 0; step < plan.steps; ++step) {
              device::multiply_rows(Number{}, rows.sum, device::describe(start + plan.step[step], pitch),
                                    device::describe(columns + step * 2 * kColumns, 8), step);
            }
            device::end_products(rows.sum);
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
#pragma unroll
              for (int j = 0; j < 4; ++j) {
                const float sum = rows.sum[i][j] + (j % 2 ? high[i] : low[i]);
                rows.sum[i][j] = RELU ? device::relu(sum) : activate(sum, conv.activation);
              }
            }
            const int column = first_column + across + lane / 4;
            int line = first_line + down + warp % 4 * 2;
            int pixel = ((first_image + image) * plan.out_height + line) * plan.out_width + column;
            const bool inside = column < last_column && first_image + image < conv.images;
#pragma unroll
            for (int half = 0; half < 2; ++half, ++line, pixel += plan.out_width) {
              if (!inside || line >= last_line) continue;
              if constexpr (POOL) {
#pragma unroll
                for (int i = 0; i < TILES; ++i) {
                  pool[i][0] += rows.sum[i][half * 2];
                  pool[i][1] += rows.sum[i][half * 2 + 1];
                }
              }
              rows.store_line(y + static_cast<int64_t>(pixel) * conv.channels + channel, half, outputs, lane);
            }
          }
        }
        if constexpr (!POOL) continue;
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) pool[i][j] += device::shuffle_xor(pool[i][j], mask);
          }
          if (lane >= 4) continue;
          const device::Shared to = sums_of(warp, image, group * kColumns + Rows<Number, TILES>::channel(i, lane));
          device::store_shared_float(to, pool[i][0]);
          device::store_shared_float(to + 4, pool[i][1]);
        }
      }
    }
    device::barrier();  // all have multiplied; the warps' sums are there
    if (plan.tile.stages == 1 && more) load(tile + blocks, 0);
    if constexpr (!POOL) continue;
    for (int i = thread; i < plan.tile.images * groups * kColumns; i += kWgmmaThreads) {
      const int channel = i % kColumns, group = i / kColumns % groups, image = i / kColumns / groups;
      if (channel >= outputs || first_image + image >= conv.images) continue;
      float sum = 0.f;
#pragma unroll
      for (int from = 0; from < kWgmmaThreads / 32; ++from) {
        sum += device::load_shared_float(sums_of(from, image, group * kColumns + channel));
      }
      const int tiles = plan.tiles_down * plan.tiles_across;
      const size_t row = static_cast<size_t>(first_image + image) * tiles + tile % tiles;
      device::store_global(sums + row * conv.channels + first_channel + group * conv.group_width + first_output + channel, sum);
    }
  }
}

}  // namespace regnet_kernels
