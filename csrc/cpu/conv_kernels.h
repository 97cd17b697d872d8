// The convolution: every kernel size, grouping and stride, on the register tiles. Included by kernels.cpp alone.

// The longest chain of additions into one accumulator, in steps. One chain of K errs by about sqrt(K) / 5 units in the last
// place of the result, so longer reductions are cut into blocks: a block's sums are put aside for all pixels of the task and the
// next one adds to them. A block's weights (32 KiB a panel) also stay in L1.
constexpr int64_t kChain = 512;
constexpr int64_t chain_parts(int64_t steps) { return steps <= kChain + kChain / 4 ? 1 : (steps + kChain - 1) / kChain; }
constexpr int64_t even_part(int64_t steps) { return (steps + chain_parts(steps) - 1) / chain_parts(steps); }

// A block of the reduction: `taps` taps from `tap` on, of each the steps [first, first + steps); then [first2, first2 + steps2) of
// the second source. `at`: steps before it.
struct Block {
  int tap, taps;
  int64_t first, steps, first2, steps2, at;
  int64_t count() const { return taps * steps + steps2; }
};

class Blocks {
 public:
  explicit Blocks(const Conv& c) : c_(c), total_((int64_t)c.taps * c.steps + c.steps2) {}
  int64_t total() const { return total_; }

  bool next(Block& b) {
    b = {tap_, 0, first_, 0, second_, 0, at_};
    if (at_ == total_) return false;
    if (chain_parts(total_) == 1) {
      b.taps = c_.taps, b.steps = c_.steps, b.steps2 = c_.steps2;
    } else if (tap_ == c_.taps) {
      const int64_t part = even_part(c_.steps2);
      b.steps2 = c_.steps2 - second_ < part ? c_.steps2 - second_ : part;
      second_ += b.steps2;
    } else if (c_.steps <= kChain) {  // whole taps, evenly
      const int fit = (int)(kChain / c_.steps), rounds = (c_.taps + fit - 1) / fit, part = (c_.taps + rounds - 1) / rounds;
      b.taps = c_.taps - tap_ < part ? c_.taps - tap_ : part;
      b.steps = c_.steps;
      tap_ += b.taps;
    } else {
      const int64_t part = even_part(c_.steps);
      b.taps = 1;
      b.steps = c_.steps - first_ < part ? c_.steps - first_ : part;
      first_ += b.steps;
      if (first_ == c_.steps) first_ = 0, tap_++;
    }
    at_ += b.count();
    return true;
  }

 private:
  const Conv& c_;
  const int64_t total_;
  int tap_ = 0;
  int64_t first_ = 0, second_ = 0, at_ = 0;
};

// P pixels against one tile-wide set of panels, over one block of the reduction. Offsets are in words or elements.
struct Tile {
  const uint32_t *x, *x2;
  const int64_t *x_offset, *x2_offset;  // [P]
  const int64_t* taps;
  int tap_count;
  int64_t steps, steps2;
  const uint32_t *w, *wh;   // full panels, half panel
  int64_t panel_words;
  const float* start;       // what the sums are added to: the bias of each lane, or what the block before put aside
  int64_t start_pixel;      // 0 for a bias
  void* y;
  const void* residual;     // or null
  const int64_t* y_offset;  // of both
  Type y_type;
  float floor;              // 0 for ReLU, else minus infinity
  bool silu;
  float* pool;              // sums of the task's pixels, or null
  const char* ahead;        // weights that come next
  int64_t ahead_step;       // bytes of them that are fetched in four steps
};

// The float32 residual of P pixels of t from the pixel `first` on -> L1, while their sums are computed: two or three lines of each pixel are
// nothing that the processor foresees. (Zen 5, 1x1's of 448 channels at 28x28 by pairs 9 % faster, of 896 at 14x14 3 %; in bfloat16, with half
// of the lines, networks were up to 1 % slower, and so they were with vectors of 8 lanes.)
template <int P, int F, int H>
REGNET_INLINE void fetch_residual(const Tile& t, int64_t first) {
  if (!t.residual || t.y_type != Type::f32) return;
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) {
    const float* const at = static_cast<const float*>(t.residual) + t.y_offset[first + p];
#pragma GCC unroll 4
    for (int panel = 0; panel < F + H; panel++) __builtin_prefetch(at + panel * kPanel);
  }
}

template <class Y, int P, int F, int H>
REGNET_INLINE void finish_as(vf (&acc)[P][vectors(F, H)], const Tile& t, int64_t first) {
  constexpr int V = vectors(F, H);
  const int64_t* const y_offset = t.y_offset + first;
  if (t.residual) {
    const Y* const residual = static_cast<const Y*>(t.residual);
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) acc[p][v] += load_vector<F, H>(residual + y_offset[p], v);
  }
  if (t.silu) {
    vf copy[P * V];  // a copy, so that the accumulators need no address and stay in registers
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) copy[p * V + v] = acc[p][v];
    silu_all(copy, P * V);
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) acc[p][v] = copy[p * V + v];
  }
  const vf floor = broadcast(t.floor);
  Y* const y = static_cast<Y*>(t.y);
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) {
    Y* const at = y + y_offset[p];
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) {
      acc[p][v] = floor > acc[p][v] ? floor : acc[p][v];  // one max instruction; NaN stays NaN, as torch's
      store_vector<F, H>(at, v, acc[p][v]);
    }
  }
  if (t.pool) {
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) {
      vf sum{};
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) sum += acc[p][v];
      store_vector<F, H>(t.pool, v, load_vector<F, H>(t.pool, v) + sum);
    }
  }
}

// The end of P pixels of t, from the pixel `first` on.
template <int P, int F, int H>
REGNET_INLINE void finish(vf (&acc)[P][vectors(F, H)], const Tile& t, int64_t first = 0) {
  constexpr int V = vectors(F, H);
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) {
    const float* const start = t.start + (first + p) * t.start_pixel;
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) acc[p][v] += load_vector<F, H>(start, v);
  }
  if (t.y_type == Type::f32) finish_as<float, P, F, H>(acc, t, first);
  else finish_as<uint16_t, P, F, H>(acc, t, first);
}

// The sums begin at zero and the bias comes last: with a choice at the beginning g++ 12 keeps the accumulators on the stack until
// the loop starts, which costs about 50 cycles a tile.
template <class Dot, bool Fold, int P, int F, int H>
__attribute__((noinline)) void run_tile(const Tile& t) {
  constexpr int V = vectors(F, H);
  vf acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) acc[p][v] = vf{};
  const uint32_t *w = t.w, *wh = t.wh;
  const char* ahead = t.ahead;
  const uint32_t* xp[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) xp[p] = t.x + t.x_offset[p];
  for (int i = 0; i < t.tap_count; i++) accumulate<Dot, P, F, H>(acc, xp, t.taps[i], w, wh, t.panel_words, t.steps, ahead, t.ahead_step);
  if constexpr (Fold) {  // F panels of 8 outputs, two words each
    vf sums[P][vectors(F / 2, F % 2)];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v += 2) sums[p][v / 2] = fold_pairs(acc[p][v], v + 1 < V ? acc[p][v + 1] : vf{});
    finish<P, F / 2, F % 2>(sums, t);
  } else {
    finish<P, F, H>(acc, t);
  }
}

template <class Dot, bool Fold, int P, int F, int H>
REGNET_INLINE void dispatch_pixels(const Tile& t, int pixels_here) {
  if constexpr (P > 1) {
    if (pixels_here < P) return dispatch_pixels<Dot, Fold, P - 1, F, H>(t, pixels_here);
  }
  run_tile<Dot, Fold, P, F, H>(t);
}

struct TaskPixels {
  int64_t x_offset[kMaxTaskPixels], x2_offset[kMaxTaskPixels], y_offset[kMaxTaskPixels];
  int count;
};

// Where the task's pixels lie.
REGNET_INLINE void find_pixels(const Conv& c, const ConvTask& task, TaskPixels& px) {
  px.count = task.pixel1 > task.pixel0 ? (int)(task.pixel1 - task.pixel0) : 0;
  const int64_t area = (int64_t)c.out_h * c.out_w;
  int64_t n = task.pixel0 / area, oh = task.pixel0 % area / c.out_w, ow = task.pixel0 % c.out_w;
  for (int i = 0; i < px.count;) {  // what the task has of a row
    const int end = px.count - i < c.out_w - ow ? px.count : i + (int)(c.out_w - ow);
    int64_t x_at = n * c.x_image + oh * c.x_row + ow * c.x_pixel, y_at = n * c.y_image + oh * c.y_row + ow * c.y_pixel;
    if (c.steps2) {
      int64_t x2_at = n * c.x2_image + oh * c.x2_row + ow * c.x2_pixel;
      for (int j = i; j < end; j++, x2_at += c.x2_pixel) px.x2_offset[j] = x2_at;
    }
    for (; i < end; i++, x_at += c.x_pixel, y_at += c.y_pixel) px.x_offset[i] = x_at, px.y_offset[i] = y_at;
    ow = 0;
    if (++oh == c.out_h) oh = 0, n++;
  }
}

// A tile-wide set of panels of a task.
struct PanelSet {
  const Conv* conv;
  const uint32_t *x, *w;
  int64_t channel;          // first output channel
  int lanes;                // output channels that exist in the set (<= its width)
  float* pool;
  const char* next;         // weights that come next
  int64_t next_bytes;
  bool first;               // of the task, in dense convolutions
};

// After the last set what the worker needs next, else what follows the set's own `words`.
REGNET_INLINE void next_weights(PanelSet& s, const ConvTask& task, bool last, int64_t words) {
  const bool other = last && task.then;
  s.next = other ? task.then : (const char*)(s.w + words);
  s.next_bytes = other ? task.then_bytes : words * 4;
}

// One pixel's channels that do not fill the set (a count that is no multiple of 8): lane by lane.
__attribute__((noinline)) void finish_lanes(float* sums, const PanelSet& s, int64_t y_offset) {
  const Conv& c = *s.conv;
  const bool f32 = c.y_type == Type::f32;
  for (int i = 0; c.residual && i < s.lanes; i++)
    sums[i] += f32 ? static_cast<const float*>(c.residual)[y_offset + s.channel + i]
                   : bf16_to_float(static_cast<const uint16_t*>(c.residual)[y_offset + s.channel + i]);
  for (int i = 0; i < s.lanes; i += VL) {
    float out[VL] = {};
    const int here = s.lanes - i < VL ? s.lanes - i : VL;
    __builtin_memcpy(out, sums + i, here * 4);
    vf v = load(out);
    if (c.activation == Activation::silu) silu_all(&v, 1);
    store(out, c.activation == Activation::relu ? relu(v) : v);
    for (int j = 0; j < here; j++) {
      if (f32) static_cast<float*>(c.y)[y_offset + s.channel + i + j] = out[j];
      else static_cast<uint16_t*>(c.y)[y_offset + s.channel + i + j] = float_to_bf16(out[j]);
      if (s.pool) s.pool[s.channel + i + j] += out[j];
    }
  }
}

// What all tiles of a set of `lanes` output channels, F of its panels full, share in one block of the reduction. raw: their sums are put
// aside, for the next block or because lanes are missing.
template <class Dot, int F>
REGNET_INLINE void set_block(Tile& t, const PanelSet& s, const Block& b, bool raw, int lanes) {
  const Conv& c = *s.conv;
  t.x = s.x + b.first * kWords<Dot>;
  t.x2 = c.x2 + b.first2;
  t.taps = c.tap_offset + b.tap;
  t.tap_count = b.taps;
  t.steps = b.steps, t.steps2 = b.steps2;
  t.w = s.w + b.at * kPanel;
  t.wh = s.w + F * t.panel_words + b.at * 8;
  t.floor = !raw && c.activation == Activation::relu ? 0.0f : -__builtin_inff();
  t.silu = !raw && c.activation == Activation::silu;
  t.y_type = raw ? Type::f32 : c.y_type;
  t.pool = raw || !s.pool ? nullptr : s.pool + s.channel;
  t.start_pixel = b.at ? lanes : 0;
  const int64_t element = c.y_type == Type::f32 ? 4 : 2;
  t.residual = raw || !c.residual ? nullptr : static_cast<const char*>(c.residual) + s.channel * element;
  t.y = static_cast<char*>(c.y) + s.channel * element;
}

// All pixels of the task against a set of panels. The pixels are shared out evenly over the tiles: 49 pixels in tiles of 6 become
// 4 x 6 and 5 x 5, never 8 x 6 and one lonely pixel.
template <class Dot, bool Fold, int F, int H>
void run_panels(const PanelSet& s, const TaskPixels& px) {
  // output channels of the set; words of weights a step
  constexpr int P = pixels<Dot>(F, H), kRow = F * 16 + H * 8, kLanes = Fold ? F * 8 : kRow;
  const Conv& c = *s.conv;
  const int tiles = (px.count + P - 1) / P, base = px.count / tiles, extra = px.count % tiles;
  const bool partial = s.lanes < kLanes;
  float bias[kLanes] = {};
  if (c.bias) __builtin_memcpy(bias, c.bias + s.channel, (partial ? s.lanes : kLanes) * 4);
  float aside[kMaxTaskPixels * kLanes];  // touched only where a reduction has several blocks, or lanes are missing
  int64_t aside_offset[P];
  for (int p = 0; p < P; p++) aside_offset[p] = p * kLanes;

  Blocks blocks(c);
  Tile t;
  t.panel_words = blocks.total() * kPanel;
  const int64_t share = s.next_bytes * 4 / (blocks.total() * tiles);  // of them with each tile
  t.ahead_step = share < 128 ? share : 128;
  for (Block b; blocks.next(b);) {
    const bool last = b.at + b.count() == blocks.total(), raw = !last || partial;
    set_block<Dot, F>(t, s, b, raw, kLanes);
    for (int i = 0, at = 0; i < tiles; i++) {
      const int here = base + (i < extra);
      t.x_offset = px.x_offset + at;
      t.start = b.at ? aside + at * kLanes : bias;
      if (raw) t.y = aside + at * kLanes, t.y_offset = aside_offset;
      else t.y_offset = px.y_offset + at;
      t.ahead = s.next + s.next_bytes * (b.at + b.count() * i / tiles) / blocks.total();
      dispatch_pixels<Dot, Fold, P, F, H>(t, here);
      at += here;
    }
    if (last && partial)
      for (int i = 0; i < px.count; i++) finish_lanes(aside + i * kLanes, s, px.y_offset[i]);
  }
}

template <class Dot, bool Fold>
REGNET_INLINE void dispatch_panels(int full, int half, const PanelSet& s, const TaskPixels& px) {
  constexpr bool kHalves = kWords<Dot> == 1;  // interleaved groups and pairs have full panels only
  switch (full * 2 + half) {
    case 1:
      if constexpr (kHalves) return run_panels<Dot, Fold, 0, 1>(s, px);
      __builtin_trap();
    case 2: return run_panels<Dot, Fold, 1, 0>(s, px);
#if VL >= 8
    case 3:
      if constexpr (kHalves) return run_panels<Dot, Fold, 1, 1>(s, px);
      __builtin_trap();
#endif
#if VL == 16
    case 4: return run_panels<Dot, Fold, 2, 0>(s, px);
    case 5:
      if constexpr (kHalves) return run_panels<Dot, Fold, 2, 1>(s, px);
      __builtin_trap();
    case 6: return run_panels<Dot, Fold, 3, 0>(s, px);
#endif
    default: __builtin_trap();
  }
}

#include "group_kernels.h"

template <class Dot, bool Fold = false>
void conv_typed(const Conv& c, const ConvTask& task) {
  TaskPixels px;
  find_pixels(c, task, px);
  const int per_group = c.panels_per_group();
  constexpr int kPanelLanes = Fold ? kPairPanel : kPanel;
  const int64_t total = (int64_t)c.taps * c.steps + c.steps2;
  const bool half_tail = kWords<Dot> == 1 && c.group_out % 16 != 0 && c.group_out % 16 <= 8;
  PanelSet t{};
  t.conv = &c;
  t.pool = c.pool ? c.pool + task.pool_slot * c.pool_stride : nullptr;
  if (t.pool) {
    for (int panel = task.panel0; panel < task.panel1; panel++) {
      const int64_t first = (int64_t)(panel / per_group) * c.group_out + panel % per_group * kPanelLanes;
      const int64_t last = (int64_t)(panel / per_group) * c.group_out + c.group_out;
      for (int64_t i = first; i < first + kPanelLanes && i < last; i++) t.pool[i] = 0;
    }
  }
#if VL == 16
  const int64_t run = runs_of(c, task);
#endif
  if (px.count == 0) return;  // whose sums are zero
  for (int panel = task.panel0; panel < task.panel1;) {
    const int group = panel / per_group, in_group = panel % per_group;
    int here = per_group - in_group;
    if (here > task.panel1 - panel) here = task.panel1 - panel;
    const bool reaches_tail = half_tail && in_group + here == per_group;
    int full = here - (reaches_tail ? 1 : 0), half = reaches_tail ? 1 : 0;
    if (full > kMaxFull) {
      // spread what is left evenly: 4 panels go as 2 + 2 where 3 fit, never as 3 + 1
      const int rounds = (full + kMaxFull - 1) / kMaxFull;
      full = (full + rounds - 1) / rounds;
      half = 0;
    } else if (half && full && (!kHalfJoins || full == 3)) {
      half = 0;
    }
    t.x = c.x + (int64_t)group * c.steps * kWords<Dot>;
    t.w = c.w + group * c.w_group + (int64_t)in_group * kPanel * total;
    t.channel = (int64_t)group * c.group_out + in_group * kPanelLanes;
    const int64_t left = c.group_out - in_group * kPanelLanes;
    const int width = full * kPanelLanes + half * 8;
    t.lanes = left < width ? (int)left : width;
    panel += full + half;
    next_weights(t, task, panel == task.panel1, total * (full * kPanel + half * 8));
#if VL == 16
    if constexpr (kWords<Dot> > 1 && !Fold) {
      if (full == per_group && full == 2 && run_whole_group<Dot, 2>(run, t, px)) continue;
      if constexpr (kWords<Dot> == 2)
        if (full == per_group && full == 1 && run_whole_group<Dot, 1>(run, t, px)) continue;
    }
#endif
    dispatch_panels<Dot, Fold>(full, half, t, px);
  }
}

#include "dense_kernels.h"
#include "stem_kernels.h"

template <class Dot, class Pair, class Quad>
void conv_of(const Conv& c, const ConvTask& task, uint32_t* scratch) {
  if (c.fold) conv_typed<Pair, true>(c, task);
  else if (c.words == 4) conv_typed<Quad>(c, task);
  else if (c.words == 2) conv_typed<Pair>(c, task);
  else if (c.groups == 1) dense<Dot>(c, task, scratch);
  else conv_typed<Dot>(c, task);
}

void conv(const Conv& c, const ConvTask& task, uint32_t* scratch) {
#if VL == 16
  if (is_stem(c, task)) return stem(c, task);
#endif
  if (c.type == Type::f32) conv_of<DotF32, DotPairF32, DotQuadF32>(c, task, scratch);
  else conv_of<DotBf16, DotPairBf16, DotQuadBf16>(c, task, scratch);
}
