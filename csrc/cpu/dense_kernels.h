// Dense convolutions (one group): the 1x1's with their residual, gate or projection, the stem, the head. The same register tiles as
// the grouped ones; here all tiles of a task run in one function and the steps go in twos. Included by kernels.cpp alone.

// A half panel fills half of a vector of 16 lanes. Two steps of it lie side by side in memory, so their products share the vector, the
// first step's in the lower half, and the halves are added at the end of the tile.
constexpr bool kHalvesShare = VL == 16;

// A run of tiles of P pixels: all that is told of a tile's pixels holds for all of them here.
struct DenseTiles : Tile {
  int64_t pixels;           // a multiple of P
  int64_t ahead_step;       // bytes of the weights that come next, fetched in two steps
  bool fresh;               // are these the task's first panels, and its pixels short? Then they are fetched ahead.
};

// The words of P pixels of t from the pixel `first` on -> L1, a few tiles before they are needed. A tile reads the same line of each of its pixels, then
// the next one of each: that is nothing that the processor foresees, and maps of the first blocks come from L3. (Zen 5, one image, 32 to 64 and 64 + 32 to
// 64 channels: 1.2 times as fast on one thread, 1.15 on two. Longer pixels, in bfloat16, and
// vectors of 8 lanes: up to 1 % slower.)
constexpr int64_t kTilesAhead = 3, kFewWords = 96;
template <int P>
REGNET_INLINE void fetch_pixels(const DenseTiles& t, int64_t first) {
  if (first + P > t.pixels) return;
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) {
    const char* const at = (const char*)(t.x + t.x_offset[first + p]);
    for (int64_t b = 0; b < t.steps * 4; b += 64) __builtin_prefetch(at + b);
    if (t.steps2) {
      const char* const at2 = (const char*)(t.x2 + t.x2_offset[first + p]);
      for (int64_t b = 0; b < t.steps2 * 4; b += 64) __builtin_prefetch(at2 + b);
    }
  }
}

// Two steps along the reduction axis.
template <class Dot, int P, int F, int H>
REGNET_INLINE void two_steps(vf (&acc)[P][vectors(F, H)], const uint32_t* const (&xp)[P], int64_t k, const uint32_t* w,
                             const uint32_t* wh, int64_t panel_words) {
  if constexpr (H == 0 || !kHalvesShare) {
    step<Dot, P, F, H>(acc, xp, k, w, wh, panel_words);
    asm volatile("" ::: "memory");  // else g++ 12 loads both steps' weights at once and spills accumulators
    step<Dot, P, F, H>(acc, xp, k + 1, w + 16, wh + 8, panel_words);
  } else {
    vu a[F + 1], b[F + 1];  // one more than there are, for F = 0
#pragma GCC unroll 4
    for (int f = 0; f < F; f++) a[f] = load_words(w + f * panel_words), b[f] = load_words(w + f * panel_words + 16);
    const vu both = load_words(wh);
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) {
      const vf first = Dot::fetch(xp[p] + k), second = Dot::fetch(xp[p] + k + 1);
#pragma GCC unroll 4
      for (int f = 0; f < F; f++) acc[p][f] = Dot::dot(acc[p][f], first, a[f]);
#pragma GCC unroll 4
      for (int f = 0; f < F; f++) acc[p][f] = Dot::dot(acc[p][f], second, b[f]);
      acc[p][F] = Dot::dot(acc[p][F], join_halves(first, second), both);
    }
  }
}

// acc += x[first .. first + steps) . w for P pixels. A line of weights that come next is fetched into L2 with each two steps, the same
// one several times where there are many tiles: that costs a load of which these loops have to spare, a loop of its own costs more.
template <class Dot, int P, int F, int H>
REGNET_INLINE void walk(vf (&acc)[P][vectors(F, H)], const uint32_t* const (&xp)[P], int64_t first, const uint32_t*& w,
                        const uint32_t*& wh, int64_t panel_words, int64_t steps, const char*& ahead, int64_t ahead_step) {
  int64_t k = first;
  const int64_t end = first + steps;
  for (; k + 2 <= end; k += 2) {
    two_steps<Dot, P, F, H>(acc, xp, k, w, wh, panel_words);
    if constexpr (F != 0) w += 32;
    if constexpr (H != 0) wh += 16;
    fetch_ahead(ahead);
    ahead += ahead_step;
  }
  if (k < end) {
    step<Dot, P, F, H>(acc, xp, k, w, wh, panel_words);
    if constexpr (F != 0) w += 16;
    if constexpr (H != 0) wh += 8;
  }
}

// The sums begin at zero and the bias comes last: with a choice at the beginning g++ 12 keeps the accumulators on the stack until
// the loop starts.
//
// Single: one tap at offset 0 and no second source, as in nearly all 1x1's: with less to keep in registers.
template <class Dot, int P, int F, int H, bool Single>
__attribute__((noinline)) void run_dense(const DenseTiles& t) {
  constexpr int V = vectors(F, H);
  const char* ahead = t.ahead;
  for (int64_t first = 0; first < t.pixels; first += P) {
    if constexpr (VL == 16) {
      if (t.fresh) fetch_pixels<P>(t, first + kTilesAhead * P);
      fetch_residual<P, F, H>(t, first);
    }
    vf acc[P][V];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) acc[p][v] = vf{};
    const uint32_t *w = t.w, *wh = t.wh;
    const uint32_t* xp[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) xp[p] = t.x + t.x_offset[first + p];
    if constexpr (Single) {
      walk<Dot, P, F, H>(acc, xp, 0, w, wh, t.panel_words, t.steps, ahead, t.ahead_step);
    } else {
      for (int i = 0; i < t.tap_count; i++) walk<Dot, P, F, H>(acc, xp, t.taps[i], w, wh, t.panel_words, t.steps, ahead, t.ahead_step);
      if (t.steps2) {
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) xp[p] = t.x2 + t.x2_offset[first + p];
        walk<Dot, P, F, H>(acc, xp, 0, w, wh, t.panel_words, t.steps2, ahead, t.ahead_step);
      }
    }
    if constexpr (H != 0 && kHalvesShare) {
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) acc[p][F] = add_halves(acc[p][F]);
    }
    finish<P, F, H>(acc, t, first);
  }
}

template <class Dot, int P, int F, int H>
REGNET_INLINE void dispatch_dense(const DenseTiles& t, int pixels_here) {
  if constexpr (P > 1) {
    if (pixels_here < P) return dispatch_dense<Dot, P - 1, F, H>(t, pixels_here);
  }
  if (t.tap_count == 1 && t.taps[0] == 0 && t.steps2 == 0) return run_dense<Dot, P, F, H, true>(t);
  run_dense<Dot, P, F, H, false>(t);
}

// All pixels of the task against a set of panels. The pixels are shared out evenly over the tiles: 49 pixels in tiles of 6 become
// 4 x 6 and 5 x 5, never 8 x 6 and one lonely pixel.
template <class Dot, int F, int H>
void run_dense_panels(const PanelSet& s, const TaskPixels& px) {
  constexpr int P = pixels<Dot>(F, H), kLanes = F * 16 + H * 8;
  const Conv& c = *s.conv;
  const int tiles = (px.count + P - 1) / P, base = px.count / tiles, extra = px.count % tiles;
  const bool partial = s.lanes < kLanes;
  float bias[kLanes] = {};
  if (c.bias) __builtin_memcpy(bias, c.bias + s.channel, (partial ? s.lanes : kLanes) * 4);
  Blocks blocks(c);
  float aside[kMaxTaskPixels * kLanes];  // touched only where a reduction has several blocks, or lanes are missing
  int64_t aside_offset[kMaxTaskPixels];
  if (partial || chain_parts(blocks.total()) > 1)
    for (int i = 0; i < px.count; i++) aside_offset[i] = i * kLanes;

  DenseTiles t;
  t.panel_words = blocks.total() * kPanel;
  const int64_t share = s.next_bytes * 2 / (blocks.total() * tiles);  // of them with each tile
  t.ahead_step = share < 64 ? share : 64;
  t.fresh = s.first && c.taps == 1 && c.steps + c.steps2 <= kFewWords;
  for (Block b; blocks.next(b);) {
    const bool last = b.at + b.count() == blocks.total(), raw = !last || partial;
    set_block<Dot, F>(t, s, b, raw, kLanes);
    if (raw) t.y = aside;
    const int64_t* const y_offset = raw ? aside_offset : px.y_offset;
    t.ahead = s.next + s.next_bytes * b.at / blocks.total();
    for (int at = 0, here = base + 1; here >= base; here--) {  // `extra` tiles of one more pixel, then the others
      t.pixels = (here > base ? extra : tiles - extra) * here;
      t.x_offset = px.x_offset + at;
      t.x2_offset = px.x2_offset + at;
      t.start = b.at ? aside + at * kLanes : bias;
      t.y_offset = y_offset + at;
      if (t.pixels) dispatch_dense<Dot, P, F, H>(t, here);
      t.ahead += t.pixels / here * (b.count() / 2) * t.ahead_step;
      at += (int)t.pixels;
    }
    if (last && partial)
      for (int i = 0; i < px.count; i++) finish_lanes(aside + i * kLanes, s, px.y_offset[i]);
  }
}

template <class Dot>
REGNET_INLINE void dispatch_dense_panels(int full, int half, const PanelSet& s, const TaskPixels& px) {
  switch (full * 2 + half) {
    case 1: return run_dense_panels<Dot, 0, 1>(s, px);
    case 2: return run_dense_panels<Dot, 1, 0>(s, px);
#if VL >= 8
    case 3: return run_dense_panels<Dot, 1, 1>(s, px);
#endif
#if VL == 16
    case 4: return run_dense_panels<Dot, 2, 0>(s, px);
    case 5: return run_dense_panels<Dot, 2, 1>(s, px);
    case 6: return run_dense_panels<Dot, 3, 0>(s, px);
#endif
    default: __builtin_trap();
  }
}

// How many of the panels that are left go together: the widest sets, but 4 panels go as 2 + 2 where 3 fit, never as 3 + 1, and a half
// panel joins two full ones or one.
REGNET_INLINE void next_set(int& full, int& half) {
#if VL == 16
  const int units = full + half, rounds = half ? (full + 3) / 3 : (full + 2) / 3;
  const int here = rounds > 1 ? (half ? units / rounds : (units + rounds - 1) / rounds) : units;
  if (rounds > 1) full = here, half = 0;
#else
  if (full > kMaxFull || (half && full && !kHalfJoins)) full = full < kMaxFull ? full : kMaxFull, half = 0;
#endif
}

// A vector of words of weights times the gates of its one or two channels, for VL or 8 lanes.
template <class Dot, int LANES>
REGNET_INLINE void scale_words(const uint32_t* w, const float* gate, uint32_t* out) {
  if constexpr (!kIsBf16<Dot>) {
    store_lanes<LANES>((float*)out, load_lanes<LANES>((const float*)w) * broadcast(gate[0]));
  } else {
    const vu v = (vu)load_lanes<LANES>((const float*)w);
    const vh low = to_bf16((vf)(v << 16) * broadcast(gate[0])), high = to_bf16((vf)(v & 0xffff0000u) * broadcast(gate[1]));
    store_lanes<LANES>((float*)out, (vf)(__builtin_convertvector(low, vu) | __builtin_convertvector(high, vu) << 16));
  }
}

// `words` words of panels, each of c.steps rows that have a gate and c.steps2 that have none -> out, of the same form.
template <class Dot>
__attribute__((noinline)) void scale_weights(const Conv& c, const uint32_t* w, int64_t words, const float* gate, uint32_t* out) {
  constexpr int kChannels = kIsBf16<Dot> ? 2 : 1;
  const int64_t total = c.steps + c.steps2;
  for (; words > 0; words -= kPanel * total) {
    const bool half = words < kPanel * total;
    for (int64_t k = 0; k < c.steps; k++) {
      if (half) {
        for (int i = 0; i < 8; i += VL) scale_words<Dot, VL == 16 ? 8 : VL>(w + k * 8 + i, gate + k * kChannels, out + k * 8 + i);
      } else {
        for (int i = 0; i < 16; i += VL) scale_words<Dot, VL>(w + k * 16 + i, gate + k * kChannels, out + k * 16 + i);
      }
    }
    const int64_t row = half ? 8 : kPanel;
    __builtin_memcpy(out + c.steps * row, w + c.steps * row, c.steps2 * row * 4);
    w += row * total, out += row * total;
  }
}

// The task's pixels -> out, each c.steps words; `left` of them are of image n. They are read from there then.
template <class Dot>
__attribute__((noinline)) void scale_input(const Conv& c, TaskPixels& px, int64_t n, int64_t left, uint32_t* out) {
  const int64_t area = (int64_t)c.out_h * c.out_w;
  for (int i = 0; i < px.count; i++, out += c.steps) {
    const float* const gate = c.gate + n * c.gate_image;
    if constexpr (!kIsBf16<Dot>) {
      const float* const in = (const float*)(c.x + px.x_offset[i]);
      float* const o = (float*)out;
      int k = 0;
      for (; k + VL <= c.steps; k += VL) store(o + k, load(in + k) * load(gate + k));
      for (; k < c.steps; k++) {  // by memcpy: the tiles read these words as another type
        const float scaled = in[k] * gate[k];
        __builtin_memcpy(o + k, &scaled, sizeof scaled);
      }
    } else {
      const uint16_t* const in = (const uint16_t*)(c.x + px.x_offset[i]);
      uint16_t* const o = (uint16_t*)out;
      int k = 0;
      for (; k + VL <= 2 * c.steps; k += VL) store_lanes<VL>(o + k, from_bf16(in + k) * load(gate + k));
      for (; k < 2 * c.steps; k++) {
        const uint16_t scaled = float_to_bf16(bf16_to_float(in[k]) * gate[k]);
        __builtin_memcpy(o + k, &scaled, sizeof scaled);
      }
    }
    px.x_offset[i] = (int64_t)i * c.steps;
    if (--left == 0) left = area, n++;
  }
}

#if VL == 16
#include "pair_kernels.h"
#endif

template <class Dot>
void dense(const Conv& c, const ConvTask& task, uint32_t* scratch) {
  TaskPixels px;
  find_pixels(c, task, px);
  const int64_t area = (int64_t)c.out_h * c.out_w;
  const int64_t total = (int64_t)c.taps * c.steps + c.steps2;
  const int panels = c.panels_per_group();
  const uint32_t *x = c.x, *w = c.w + (int64_t)task.panel0 * kPanel * total;
  float* const pool = c.pool ? c.pool + task.pool_slot * c.pool_stride : nullptr;
  if (pool)
    for (int i = task.panel0 * kPanel; i < task.panel1 * kPanel && i < c.group_out; i++) pool[i] = 0;
  if (px.count == 0) return;  // whose sums are zero
#if VL == 16
  if constexpr (!kIsBf16<Dot>)
    if (c.pairs) return dense_by_pairs(c, task, px, scratch);
#endif
  if (c.gate) {  // scale the smaller one, the task's weights or its input, once, into scratch
    const int64_t n = task.pixel0 / area, lanes = panel_lanes(c.group_out) - task.panel0 * kPanel;
    const int64_t words = total * (task.panel1 < panels ? (task.panel1 - task.panel0) * kPanel : lanes);
    if (words <= px.count * (int64_t)c.steps && (task.pixel1 - 1) / area == n) {
      scale_weights<Dot>(c, w, words, c.gate + n * c.gate_image, scratch);
      w = scratch;
    } else {
      scale_input<Dot>(c, px, n, area - task.pixel0 % area, scratch);
      x = scratch;
    }
  }
  PanelSet t{};
  t.conv = &c;
  t.x = x;
  t.pool = pool;
  for (int panel = task.panel0; panel < task.panel1;) {
    int half = task.panel1 == panels && c.group_out % kPanel != 0 && c.group_out % kPanel <= 8, full = task.panel1 - panel - half;
    next_set(full, half);
    t.w = w + (int64_t)(panel - task.panel0) * kPanel * total;
    t.channel = (int64_t)panel * kPanel;
    const int left = c.group_out - panel * kPanel, width = full * kPanel + half * 8;
    t.lanes = left < width ? left : width;
    panel += full + half;
    next_weights(t, task, panel == task.panel1, total * width);
    t.first = t.channel == task.panel0 * kPanel;
    dispatch_dense_panels<Dot>(full, half, t, px);
  }
}
