// How the grouped 3x3 convolution for Hopper (gconv3x3_wgmma.cuh) is cut. The tile comes from the caller
// (regnet_kernels/backends/cuda.py). Plain C++: no CUDA, no torch.
#pragma once

#include "gconv3x3_plan.h"

namespace regnet_kernels {

constexpr int kWgmmaThreads = 256;      // two warpgroups
constexpr int kWgmmaShared = 232448;    // bytes a block may have on compute capability 9.0
constexpr int kMostSteps = 96;          // products of 16 inputs: groups up to 168 wide

// Output pixels of a block; images > 1 only where height and width are those of the map. groups: of a block, 1 where a group's outputs
// are in several parts; stages: 2 to copy the next tile's halo while this one is multiplied.
struct WgmmaTile {
  int height, width, images, groups, stages;
};

struct WgmmaPlan {
  GroupedConv conv;
  WgmmaTile tile;
  int out_height, out_width, tiles_down, tiles_across, spatial;  // spatial: tiles of pixels in all
  int units, parts, tiles;            // of a group: 8-channel units of the inputs; parts of `tiles` * 8 outputs
  int groups, slices;                 // slices: of the channels, each a block's
  int line, image_places, plane;      // places (16 bytes) of a line, an image and a unit of the halo in shared memory
  int real_lines, real_columns;       // of an image's halo that are copied
  int rows_down, rows_across;         // products of 64 rows, 8 lines x 8 columns each, of an image
  int steps;
  int weight_bytes, halo_bytes, table_bytes, sums_bytes, shared_bytes;
  unsigned step[kMostSteps];  // the place of a step's first 8 inputs, and in the upper half how far from there the second 8 are
};

// Where a tap reads, in places from its pixel's corner. With stride 2 a line has its even columns first, then the odd ones.
inline int tap_place(const WgmmaPlan& plan, int row, int column) {
  const int across = plan.conv.stride == 1 ? column : column == 1 ? plan.tile.width + 1 : column / 2;
  return row * plan.line + across;
}

// The column of the `index`-th tap of a row: in the order of their places, so that no step goes backwards.
constexpr int tap_column(int stride, int index) { return stride == 1 ? index : index == 0 ? 0 : 3 - index; }

// Whether the tile suits the convolution; then `plan` is filled in.
inline bool plan_wgmma(WgmmaPlan& plan, const GroupedConv& conv, const WgmmaTile& tile) {
  plan = {};
  plan.conv = conv;
  plan.tile = tile;
  const int stride = conv.stride;
  plan.out_height = (conv.height - 1) / stride + 1;
  plan.out_width = (conv.width - 1) / stride + 1;
  if (tile.height < 1 || tile.width < 1 || tile.images < 1 || tile.groups < 1 || tile.stages < 1 || tile.stages > 2) return false;
  if (tile.height > 255 || tile.width > 255 || tile.images > 64) return false;
  if (tile.images > 1 && (tile.height != plan.out_height || tile.width != plan.out_width)) return false;
  plan.tiles_down = ceil_div(plan.out_height, tile.height);
  plan.tiles_across = ceil_div(plan.out_width, tile.width);
  const long long spatial = 1ll * ceil_div(conv.images, tile.images) * plan.tiles_down * plan.tiles_across;
  plan.units = conv.group_width / 8;
  plan.parts = ceil_div(plan.units, 8);
  plan.tiles = ceil_div(plan.units, plan.parts);
  plan.groups = conv.channels / conv.group_width;
  if (plan.parts > 1 && tile.groups > 1) return false;
  const long long slices = 1ll * ceil_div(plan.groups, tile.groups) * plan.parts;
  if (spatial * slices > INT_MAX) return false;
  plan.spatial = static_cast<int>(spatial);
  plan.slices = static_cast<int>(slices);

  plan.rows_down = ceil_div(tile.height, 8);
  plan.rows_across = ceil_div(tile.width, 8);
  plan.line = (tile.width - 1) * stride + 3;
  plan.real_lines = (tile.height - 1) * stride + 3;
  plan.real_columns = plan.line;
  const int lines = (plan.rows_down * 8 - 1) * stride + 3;
  plan.image_places = lines * plan.line;
  plan.plane = plan.image_places * tile.images + 8;  // the last columns of 8 may reach beyond the last line
  plan.plane += (9 - plan.plane % 8) % 8;            // neighbouring units of a pixel in different banks
  plan.steps = ceil_div(9 * plan.units, 2);
  const int block_units = tile.groups * plan.units;
  if (plan.steps > kMostSteps || plan.plane > 16000 || tile.images * plan.real_lines * plan.real_columns > 65535) return false;

  const auto place = [&](int index) {
    const int tap = index % 9;
    return index / 9 * plan.plane + tap_place(plan, tap / 3, tap_column(stride, tap % 3));
  };
  for (int step = 0; step < plan.steps; ++step) {
    const int first = place(2 * step), second = 2 * step + 1 < 9 * plan.units ? place(2 * step + 1) : first;
    if (second >= 1 << 14) return false;
    plan.step[step] = static_cast<unsigned>(first | (second - first) << 16);
  }
  const long long weights = 1ll * tile.groups * plan.steps * 2 * plan.tiles * 8 * 16, halo = 1ll * block_units * plan.plane * 16;
  if (weights > kWgmmaShared || halo > kWgmmaShared) return false;
  plan.weight_bytes = static_cast<int>(weights);
  plan.halo_bytes = static_cast<int>(halo);
  plan.table_bytes = ceil_div(tile.images * plan.real_lines * plan.real_columns * 8, 16) * 16;
  plan.sums_bytes = conv.pool ? kWgmmaThreads / 32 * tile.images * tile.groups * plan.tiles * 8 * 4 : 0;
  const long long shared = weights + tile.stages * halo + plan.table_bytes + plan.sums_bytes;
  plan.shared_bytes = static_cast<int>(shared);
  return shared <= kWgmmaShared;
}

}  // namespace regnet_kernels
