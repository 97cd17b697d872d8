// What a CPU kernel is told, and the table of kernels that each instruction set supplies.
//
// kernels.cpp is compiled once per instruction set (REGNET_ISA); isa.cpp picks a table at run time. Everything here is
// torch-free, so that the same sources build into the extension, the sanitizer harness and the aarch64 test.
#pragma once
#include <stdint.h>

namespace regnet_kernels::cpu {

enum class Activation : int { none = 0, relu = 1, silu = 2 };

// Activations and weights are read as 32-bit words: one float32, or a pair of bfloat16 of neighbouring channels. With
// that, one micro-kernel source serves both types, and "steps" below counts words along the reduction axis.
enum class Type : int { f32 = 0, bf16 = 1 };

enum class Scalar : int { f32, f16, bf16 };  // of the caller's tensors

inline constexpr int kPanel = 16;  // output channels in a full weight panel; the last of a group may be a half panel (8)

// Output channels -> words of one group's packed panels, for `steps` words along the reduction axis.
constexpr int64_t panel_lanes(int64_t channels) {
  const int64_t tail = channels % kPanel;
  return channels - tail + (tail == 0 ? 0 : tail <= 8 ? 8 : kPanel);
}
constexpr int64_t panel_count(int64_t channels) { return (channels + kPanel - 1) / kPanel; }

// Inside of a network, the groups of a 3x3 go `interleave` together: the same channel of each lies side by side, so that one broadcast
// of so many words feeds a vector with no idle lane. Groups of 8 are half of a vector of 16 lanes, those of 16 one (and then each
// multiply-add needs a broadcast of its own), those of 24, 40, 56 ... a vector and a half. What is left over goes in smaller numbers.
constexpr int interleave(int64_t group_width) {
  return group_width == 8 ? 4 : group_width == 16 || group_width % 16 == 8 ? 2 : 1;
}

// A run of a 3x3's groups that are computed alike: `count` times `together` groups from group `first` on.
struct GroupRun {
  int64_t together, first, count;
};
inline constexpr int kMostRuns = 3;
struct GroupRuns {
  GroupRun run[kMostRuns];
  int size;
  constexpr GroupRuns(int64_t groups, int64_t group_width) : run{}, size(0) {
    int64_t first = 0;
    for (int64_t together = interleave(group_width); together >= 1 && first < groups; together /= 2)
      if (const int64_t count = (groups - first) / together; count > 0) {
        run[size++] = {together, first, count};
        first += count * together;
      }
  }
};

// Narrow groups that stand alone are packed in pairs of words along the reduction axis: panels of 8 output channels,
// [words / 2][8][2]. One broadcast of two words then feeds 16 lanes. The sums of even and odd words are added at the end.
inline constexpr int kPairPanel = 8;
constexpr bool packs_pairs(int64_t group_width, int64_t group_out) {
  return group_width % 8 == 0 && group_out % kPairPanel == 0 && (group_out <= 16 || (group_out % kPanel != 0 && group_out < 64));
}

// One convolution over NHWC activations. Output pixel (n, oh, ow) reads the words
//   x + n * x_image + oh * x_row + ow * x_pixel + tap_offset[t] + group * steps * words + (0 .. steps * words)     for each tap t
// (the strides already contain the convolution's stride; borders are in the buffer, so nothing is tested), and, where
// there is a second source (the projection shortcut), the `steps2` words at x2 + ...: a second accumulation into the same
// registers, so that the projection never reaches memory.
struct Conv {
  Type type;  // of x and of the weights
  const uint32_t* x;
  int64_t x_image, x_row, x_pixel;
  const int64_t* tap_offset;
  int taps, steps;
  int words;                // of the input a step: 1; 2 or 4 interleaved groups, which count as one group here; 2 where the sums are folded
  bool fold;                // each output has two sums, of even and of odd words, and the weights are packed in pairs
  const uint32_t* x2;
  int64_t x2_image, x2_row, x2_pixel;
  int steps2;
  const uint32_t* w;        // per group: panels, each [taps * steps + steps2][lanes]
  int64_t w_group;          // words between groups
  const float* bias;        // groups * group_out, or null
  int groups, group_out;    // output channels of a group
  Type y_type;
  void* y;
  int64_t y_image, y_row, y_pixel;  // in elements of y
  const void* residual;     // like y, of its type and strides, or null; may be y itself
  Activation activation;
  const float* gate;        // (images, steps words' channels): scales the input of a 1x1; or null
  int64_t gate_image;
  float* pool;              // (slots, pool_stride): sums of the output over a task's pixels; or null
  int64_t pool_stride;
  const float* pairs;       // of a 1x1, to go by pairs (pair_kernels.h): group_out sums and the size of the weights, for each source; or null
  int out_h, out_w;
  int64_t x_each, y_each;   // bytes from a worker's x (y) to the next one's, where each has its own: the plan adds them; else 0

  int panels() const { return groups * panels_per_group(); }
  int panels_per_group() const { return fold ? group_out / kPairPanel : (int)panel_count(group_out); }
  // words that an output channel is the sum over
  int64_t reduction() const { return ((int64_t)taps * steps) * (fold ? 2 : 1) + steps2; }
};

// Interleaved groups are fastest in runs of so many pixels of a row: their tasks should be whole runs. Rows of one run leave a short tile
// in each map, which pays only where the taps are short as well.
constexpr int64_t run_pixels(const Conv& c) {
  if (c.words == 1 || c.fold || (c.out_w == 7 && c.steps > 8)) return 1;
  return c.out_w % 7 == 0 ? 7 : c.out_w % 8 == 0 ? 8 : 1;
}

inline constexpr int kPairPanels = 2;  // that go together with pairs
inline constexpr int64_t kPairRun = 48;  // channels, see pair_kernels.h

// A rectangle of a convolution: pixels [pixel0, pixel1) of the flattened (image, row, column) order times panels
// [panel0, panel1) of the flattened (group, panel) order. With a gate, `scratch` holds `steps` words for each pixel,
// with pairs `steps` + `steps2` and two more for each of the sources.
struct ConvTask {
  int64_t pixel0, pixel1;
  int panel0, panel1;
  int64_t pool_slot;
  // Weights that the worker needs behind these, fetched into L2 with the last set of panels; null: those that follow in memory.
  const char* then = nullptr;
  int64_t then_bytes = 0;
  bool prepared = false;     // does scratch hold these pixels from the task before, of the same convolution with pairs?
};
inline constexpr int kMaxTaskPixels = 400;

// A 3x3 stride-1 grouped convolution of float32 maps by Winograd's F(4x4, 3x3): each 6x6 input tile and the weights go through a linear
// transform, 36 products a channel pair replace the 144 of a 4x4 output tile, and a transform brings the sums back.
// A last row or column of tiles with at most two outputs takes 4 inputs and positions of 6. x: NHWC, already padded, by one on the left
// and top, to winograd_padded of each side.
// Where `together` > 1, each group here is so many interleaved ones (see `interleave`). The weights are those of the same Conv.
struct Winograd {
  const float* x;
  int64_t x_image, x_row, x_pixel;
  const uint32_t* w;
  int64_t w_group;
  bool fold;
  const float* bias;
  int groups, group_width, together;  // group_width: a multiple of 8
  float* y;
  int64_t y_image, y_row, y_pixel;
  Activation activation;
  float* pool;               // (slots, pool_stride), or null
  int64_t pool_stride;
  int out_h, out_w, tiles_h, tiles_w;
  int stride;                // 1; or 2: tiles of 2x2 outputs, x_row and x_pixel are from output to output, x is padded by one all round
  // What the phases after this one read from memory, brought into L2 meanwhile: two matrices, or null.
  const char* next[2];
  int64_t next_bytes;        // of each
  int64_t x_each;            // as in Conv

  int lanes() const { return group_width * together; }  // channels of a group
};
// The tiles go in `parts` even runs. With sums, all are a part of one image, and each run's sums go to a slot, from pool_slot on; or
// they are whole images in one run: then the first one's sums go to pool_slot, the next one's to the slot after.
struct WinogradTask {
  int64_t tile0, tile1;      // of the flattened (image, tile row, tile column) order
  int64_t parts;
  int group0, group1;
  int64_t pool_slot;
  const char* next[2];       // its shares of the Winograd's
  int64_t next_bytes;
  const char* then = nullptr;  // as in ConvTask, with the last group
  int64_t then_bytes = 0;
};
constexpr int64_t winograd_padded(int64_t side) { return (side + 3) / 4 * 4 + (side % 4 == 1 || side % 4 == 2 ? 0 : 2); }
// The transformed weights of three panels go through L2 at once; of many tiles 12 positions of 36 at a time, where a group's weights
// stay in L2 until they are read again.
constexpr bool winograd_in_pairs(int64_t lanes, int64_t group_width, int64_t tiles) {
  return tiles > 32 && group_width > 48 && 9 * 4 * lanes * group_width <= 600 * 1024;
}
constexpr int64_t winograd_weight_words(int64_t group_width) { return 36 * kPanel * (3 * group_width + 1); }
// Tiles that are transformed together, of groups of `lanes` channels. Where the transformed weights of all of them are kept, as many as
// leave the transforms in a small L2; else more, although they leave it: the weights are transformed the less often.
constexpr int64_t winograd_block(int64_t lanes, int64_t group_width) {
  const int64_t tiles = lanes <= 3 * kPanel && group_width <= 48 ? 48 * 1024 / (72 * lanes) : 64;
  return tiles < 16 ? 16 : tiles > 64 ? 64 : tiles;
}
constexpr int64_t winograd_scratch_words(int64_t lanes, int64_t group_width) {
  const int64_t m = lanes > 9 * kPanel ? 12 * lanes : 36 * 3 * kPanel;  // of a tile: 12 planes of all lanes, or 36 of a set's
  return winograd_weight_words(group_width) + winograd_block(lanes, group_width) * (36 * lanes + m) + 72 * 32;
}

// Of stride 2 (winograd_strided_kernels.h): 7 planes of weights and 5 of sums, of three panels; 16 of the input.
constexpr int64_t winograd_strided_weight_words(int64_t group_width) { return 7 * kPanel * (3 * group_width + 1); }
// Tiles that are transformed together. For wide groups V leaves L2 so; with fewer the weights are transformed too often (of 16 to 64
// the most were the best on average, widths 64 to 128).
inline constexpr int64_t kStridedBlock = 64;
constexpr int64_t winograd_strided_scratch_words(int64_t lanes, int64_t group_width) {
  return 16 * (kStridedBlock * lanes + 32) + 5 * (kStridedBlock * 3 * kPanel + 32) + winograd_strided_weight_words(group_width);
}

// The same of bfloat16 maps by F(2x2, 3x3), with products of bfloat16 and float32 sums: 4x4 input tiles, 16 products a channel pair in
// place of 36.
struct WinogradBf16 {
  const uint16_t* x;         // NHWC, padded by one on the left and top, to 2 * tiles + 2 pixels in all
  int64_t x_image, x_row, x_pixel;
  const uint32_t* u;         // per group: 16 x panels of the transformed weights, [group_width / 2][lanes][2]
  const float* bias;
  int groups, group_width, together;  // as above
  uint16_t* y;
  int64_t y_image, y_row, y_pixel;
  Activation activation;
  float* pool;               // (slots, pool_stride), or null
  int64_t pool_stride;
  int out_h, out_w, tiles_h, tiles_w;

  int lanes() const { return group_width * together; }
};
// With sums, a task's tiles are a part of one image, or whole images: then the first one's sums go to pool_slot, the next one's to the
// slot after it.
struct WinogradBf16Task {
  int64_t tile0, tile1;      // of the flattened (image, tile row, tile column) order
  int group0, group1;
  int64_t pool_slot;
};
// Tiles that are transformed together: transformed input and output of narrow groups within L1, of wider ones within half of an L2 of
// 1 MiB, but enough for a pass over the transformed weights.
constexpr int64_t winograd_bf16_block(int64_t lanes) {
  const int64_t tiles = (lanes <= 32 ? 16 : 96) * 1024 / (24 * lanes);
  return tiles < 32 && lanes > 32 ? 32 : tiles;
}
constexpr int64_t winograd_bf16_scratch_words(int64_t lanes) { return 24 * (winograd_bf16_block(lanes) * lanes + 64); }

// Squeeze-and-excite. `sums`: (images, slots, channels) partial sums; hidden: (images, squeeze); gate: (images, channels).
struct SqueezeExcite {
  const float* sums;
  int64_t slots;
  float inverse_count;
  const float *w1, *b1, *w2t, *b2;  // (squeeze, channels), (squeeze), (squeeze, channels), (channels)
  float *hidden, *gate;
  float* pooled;                    // one (images, channels) scratch per task
  int images, channels, squeeze;
  Type type;
  void* map;                        // (images, pixels, channels), multiplied by the gate in place; or null
  int64_t pixels;
};

struct Kernels {
  const char* name;
  int vector_floats;   // lanes of its widest vector
  int pixel_tile;      // pixels of the widest register tile: what a task's pixel count should be a multiple of
  int preferred_panels;  // panels the widest register tile takes together
  bool pairs;          // does its `conv` know Conv::pairs?
  void (*conv)(const Conv&, const ConvTask&, uint32_t* scratch);
  void (*winograd)(const Winograd&, const WinogradTask&, float* scratch);
  void (*winograd_bf16)(const WinogradBf16&, const WinogradBf16Task&, float* scratch);
  void (*se_reduce_fc1)(const SqueezeExcite&, int squeeze0, int squeeze1, float* pooled);
  void (*se_fc2)(const SqueezeExcite&, int channel0, int channel1);
  // sums of x (pixels, channels) over pixels -> sums[channels]
  void (*sum_pixels)(Type, const void* x, int64_t pixels, int64_t channels, float* sums);
  // y = x * gate over (pixels, channels)
  void (*scale_pixels)(Type, const void* x, const float* gate, void* y, int64_t pixels, int64_t channels);
  // `count` scaled sums rounded to `type`
  void (*store_scaled)(Type, const float* sums, float scale, void* y, int64_t count);
  // rows of an image to float32: `pixels` pixels of three planes a, b, c -> [pixels][3]; `count` scalars as they lie
  void (*weave_planes)(Scalar, const void* a, const void* b, const void* c, int64_t pixels, float* out);
  void (*widen)(Scalar, const void* x, int64_t count, float* out);
  // fused multiply-adds, 2 flops each, or dot products of pairs of bfloat16, 4 flops each, in independent chains of registers: returns the
  // flops done
  double (*fma_burst)(Type, int64_t iterations, float* sink);
};

}  // namespace regnet_kernels::cpu
