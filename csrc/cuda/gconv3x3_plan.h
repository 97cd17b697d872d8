// How a grouped 3x3 convolution is cut into thread blocks and shared memory. Plain C++: no CUDA, no torch.
#pragma once

#include <algorithm>
#include <climits>

namespace regnet_kernels {

enum Activation : int { kNone = 0, kRelu = 1, kSilu = 2 };

// A 3x3 convolution with padding 1 on channels_last memory; channels = groups * group_width, in and out alike. pool: each
// tile's sums of the activated results are wanted too, for the squeeze of a squeeze-excite (16-bit kernels).
struct GroupedConv {
  int images, height, width, channels, group_width, stride, activation;
  int pool = 0;
};

constexpr int kThreads = 128;      // 4 warps
constexpr int kBlockPixels = 128;  // output pixels of a block: 32 rows of the matrix product for each warp
// A stage of shared memory holds 16 channels (32 bytes) of each halo pixel, at a pitch of 48 bytes: an odd number of
// 16-byte units, so that the 8 neighbouring pixels which one 8x8 matrix load reads share no bank.
constexpr int kPixelPitch = 48;
constexpr int kTileBytes = 256;  // a tap's 16 inputs x 8 outputs of 16-bit weights
// The smallest limit on shared memory a block among compute capabilities 8.0 and newer (8.6, 8.9, 12.0): 99 KB.
constexpr int kSharedLimit = 101376;
constexpr int kMaxHaloPixels = 576;  // keeps two stages of the widest weights, and the sums, under that limit
constexpr int kMaxPooledImages = 2;  // of a tile: enough for two maps of 7x7 or 8x8

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

struct GroupedConvPlan {
  GroupedConv conv;
  int out_height, out_width;
  int tile_images, tile_height, tile_width;  // output pixels of a block; tile_images > 1 only for whole small maps
  int tiles_down, tiles_across;
  int halo_height, halo_width, halo_pixels;  // input pixels of a block (halo_pixels: of all its images)
  int groups, groups_per_block;
  int parts, tiles;                          // a group's outputs: `parts` blocks of `tiles` * 8 channels
  int chunks;                                // a group's inputs: chunks of 16 channels, the last one of 8 if odd
  int halo_bytes, stage_bytes, table_bytes, sums_bytes, shared_bytes;
  unsigned grid_x, grid_y;
};

inline void plan_channels(GroupedConvPlan& plan) {
  const int units = plan.conv.group_width / 8;
  plan.groups = plan.conv.channels / plan.conv.group_width;
  plan.parts = ceil_div(units, 8);
  plan.tiles = ceil_div(units, plan.parts);
  plan.chunks = ceil_div(units, 2);
}

// The tile with the least work: the matrix rows that are computed and the halo pixels that are read, over all blocks.
inline void plan_pixels(GroupedConvPlan& plan) {
  const GroupedConv& conv = plan.conv;
  const int stride = conv.stride;
  plan.out_height = (conv.height - 1) / stride + 1;
  plan.out_width = (conv.width - 1) / stride + 1;
  long long best = LLONG_MAX;
  for (int tile_width = 1; tile_width <= std::min(plan.out_width, kBlockPixels); ++tile_width) {
    const int halo_width = (tile_width - 1) * stride + 3;
    const int fit = (kMaxHaloPixels / halo_width - 3) / stride + 1;
    if (kMaxHaloPixels / halo_width < 3) break;
    int tile_height = std::min({plan.out_height, kBlockPixels / tile_width, fit});
    tile_height = ceil_div(plan.out_height, ceil_div(plan.out_height, tile_height));
    const int halo_height = (tile_height - 1) * stride + 3, halo = halo_width * halo_height;
    int tile_images = 1;
    if (tile_width == plan.out_width && tile_height == plan.out_height) {
      tile_images = std::min({conv.images, kBlockPixels / (tile_width * tile_height), kMaxHaloPixels / halo});
      if (conv.pool) tile_images = std::min(tile_images, kMaxPooledImages);
    }
    const long long blocks = 1ll * ceil_div(plan.out_height, tile_height) * ceil_div(plan.out_width, tile_width) *
                             ceil_div(conv.images, tile_images);
    const long long work = blocks * (kBlockPixels + tile_images * halo);
    if (work >= best) continue;
    best = work;
    plan.tile_images = tile_images;
    plan.tile_height = tile_height;
    plan.tile_width = tile_width;
    plan.halo_height = halo_height;
    plan.halo_width = halo_width;
    plan.halo_pixels = tile_images * halo;
  }
  plan.tiles_down = ceil_div(plan.out_height, plan.tile_height);
  plan.tiles_across = ceil_div(plan.out_width, plan.tile_width);
}

// Several narrow groups share a block, one after the other, as long as there are blocks enough for the whole device.
inline void plan_blocks(GroupedConvPlan& plan, int multiprocessors) {
  const long long spatial = 1ll * ceil_div(plan.conv.images, plan.tile_images) * plan.tiles_down * plan.tiles_across;
  const int fewest = plan.conv.group_width == 8 ? 2 : 1;
  int together = std::max(1, 64 / plan.conv.group_width);
  while (together / 2 >= fewest && spatial * ceil_div(plan.groups, together) * plan.parts < 4ll * multiprocessors) {
    together /= 2;
  }
  plan.groups_per_block = together;
  plan.grid_x = static_cast<unsigned>(spatial);
  plan.grid_y = static_cast<unsigned>(ceil_div(plan.groups, together) * plan.parts);
}

inline void plan_shared(GroupedConvPlan& plan) {
  const bool paired = plan.tiles == 1;
  const int weight_bytes = 9 * plan.tiles * kTileBytes;  // of two groups of 8: half as much each
  const int items = paired ? ceil_div(plan.groups_per_block, 2) : plan.groups_per_block * plan.chunks;
  plan.table_bytes = ceil_div(plan.halo_pixels * 4, 16) * 16;
  plan.halo_bytes = plan.halo_pixels * kPixelPitch;
  plan.stage_bytes = plan.halo_bytes + weight_bytes;
  // Two buffers, one for each warp and image: while one group's sums are added up, the next group writes its own.
  plan.sums_bytes = plan.conv.pool ? 2 * (kThreads / 32) * plan.tile_images * (paired ? 16 : plan.tiles * 8) * 4 : 0;
  plan.shared_bytes = plan.table_bytes + plan.sums_bytes + std::min(items, 2) * plan.stage_bytes;
}

// images > 0, height > 0, width > 0, group_width a multiple of 8 that divides channels, stride 1 or 2.
inline GroupedConvPlan plan_gconv3x3(const GroupedConv& conv, int multiprocessors) {
  GroupedConvPlan plan{};
  plan.conv = conv;
  plan_channels(plan);
  plan_pixels(plan);
  plan_blocks(plan, multiprocessors);
  plan_shared(plan);
  return plan;
}

}  // namespace regnet_kernels
