// Dense 1x1's with fewer multiply-adds than x . w has terms: Winograd's inner product ("A New Algorithm for Inner Product", 1968). Of two
// channels
//   x1 w1 + x2 w2 = (x1 + w2)(x2 + w1) - x1 x2 - w1 w2,
// where the sum of x1 x2 is one number for each pixel and that of w1 w2 one for each output channel. One multiply-add and two additions
// for two multiply-adds: worthless where additions take the multiplier's turns, but AMD's cores since Zen have adders beside their two
// multipliers, which a convolution leaves idle. Two pairs so and two channels plainly, six products for four multiply-adds and four
// additions, keep all four busy: 1.5 times the machine's multiply-add peak at best. (Zen 5, one core, 256 GFLOP/s of plain
// multiply-adds: 340.)
//
// Accuracy. (x1 - w2)(w1 - x2) = x1 w1 + x2 w2 - x1 x2 - w1 w2 serves as well; taken by turns with the other, the sums of products
// that must cancel stay small. So they do where x is about as large as w: each pixel is scaled by a power of 4, and chains of additions are
// short. The error is about 1.5 times that of plain sums in such chains, as large as that of a plain chain of 512.
// Included by kernels.cpp alone.

// The order of the reduction: runs of kPairRun channels, of which j and j + 16 are a pair and j + 32 goes plainly, j < 16; of the last ones one
// run of 24 alike, with 8 for 16; then the rest plainly. Pairs of even j have plus signs. regnet_kernels/pairs.py has the same.
constexpr int64_t kPairTail = 24;
constexpr int64_t kPairChain = 7;  // runs in a chain of additions

constexpr int pair_pixels(int full, int half) {
  const int v = vectors(full, half);
  return v == 3 ? 6 : v == 2 ? 10 : 12;
}

// How many of the panels that are left go together: two vectors of outputs, three of an odd number.
REGNET_INLINE void next_pair_set(int& full, int& half) {
  const int units = full + half, here = units == 3 ? 3 : units < 2 ? units : 2;
  if (here < units) full = here, half = 0;
}

// A run of tiles, and the part of the reduction that one chain of additions covers.
struct PairTiles : DenseTiles {
  bool begins, ends;          // is it the first part, the last?
  int64_t runs, tail, plain;  // runs of 48, at least one, and in the last part of 24, and channels
  int64_t stride;             // bytes from pixel to pixel
  float* sums;                // of the parts so far, tile by tile
  int64_t ahead_panel;        // bytes between the panels that come next
  const float* crossed;       // of each pixel the sum of its x1 x2
  const float* scale;         // of each pixel, what its sums are multiplied by
  const float* bias;
};

// What a tile needs behind its loops, as the assembly reads it.
struct PairEnd {
  float* sums;                                  // of the parts before, or to come
  const float *start, *bias, *crossed, *scale;  // as in PairTiles, the pixels' from the tile's first on
  void* y;                                      // and so on as in Tile
  const void* residual;
  const int64_t* y_offset;
  float floor;
};

#if defined(__AVX512F__) && !defined(__clang__)  // whose C++20 has no register variables
#include "pair_assembly.h"
constexpr bool kPairAssembly = true;
#else
constexpr bool kPairAssembly = false;
template <bool adds, bool ends, int P, int F, int H>  // never called
void pairs_assembly(const PairTiles&, const uint32_t*, const PairEnd&, const char*&) {}
#endif

template <int F, int H>
REGNET_INLINE vu pair_weights(const uint32_t* w, const uint32_t* wh, int64_t panel_words, int v, int64_t row) {
  if (v < F * kVectorsPerPanel) return load_words(w + v / kVectorsPerPanel * panel_words + row * kPanel + v % kVectorsPerPanel * VL);
  return load_half(wh + row * 8, v - F * kVectorsPerPanel);
}

// Channels k and k + D as a pair, k + 2 D plainly.
template <int D, bool Plus, int P, int F, int H>
REGNET_INLINE void pair_step(vf (&acc)[P][vectors(F, H)], const uint32_t* const (&xp)[P], int64_t k, const uint32_t* w,
                             const uint32_t* wh, int64_t panel_words) {
  constexpr int V = vectors(F, H);
  vf w1[V], w2[V], w3[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; v++) {
    w1[v] = (vf)pair_weights<F, H>(w, wh, panel_words, v, 0), w2[v] = (vf)pair_weights<F, H>(w, wh, panel_words, v, D);
    w3[v] = (vf)pair_weights<F, H>(w, wh, panel_words, v, 2 * D);
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) {
    const vf x1 = DotF32::fetch(xp[p] + k), x2 = DotF32::fetch(xp[p] + k + D), x3 = DotF32::fetch(xp[p] + k + 2 * D);
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      dot_in_place<DotF32>(acc[p][v], x3, (vu)w3[v]);  // first, as in pair_assembly.h: a pixel has the same bits in tiles of all widths
      dot_in_place<DotF32>(acc[p][v], Plus ? x1 + w2[v] : x1 - w2[v], (vu)(Plus ? x2 + w1[v] : w1[v] - x2));
    }
  }
}

template <int D, int P, int F, int H>
REGNET_INLINE void pair_runs(vf (&acc)[P][vectors(F, H)], const uint32_t* const (&xp)[P], int64_t& k, const uint32_t*& w,
                             const uint32_t*& wh, int64_t panel_words, int64_t runs, const char*& ahead, int64_t ahead_panel, int64_t ahead_step) {
  for (; runs > 0; runs--) {
    for (int j = 0; j < D; j += 2) {
      pair_step<D, true, P, F, H>(acc, xp, k, w, wh, panel_words);
      asm volatile("" ::: "memory");  // else g++ 12 loads both steps' weights at once and spills accumulators
      pair_step<D, false, P, F, H>(acc, xp, k + 1, w + kPanel, wh + 8, panel_words);
      fetch_ahead(ahead);
      fetch_ahead(ahead + ahead_panel);
      ahead += ahead_step;
      asm volatile("" ::: "memory");
      k += 2;
      w += 2 * kPanel;
      if constexpr (H != 0) wh += 16;
    }
    k += 2 * D;
    w += 2 * D * kPanel;
    if constexpr (H != 0) wh += 2 * D * 8;
  }
}

// Channels that are in no run.
template <int P, int F, int H>
REGNET_INLINE void plain_steps(vf (&acc)[P][vectors(F, H)], const uint32_t* x, int64_t stride, int64_t steps, const uint32_t* w,
                               const uint32_t* wh, int64_t panel_words) {
  const uint32_t* xp[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) xp[p] = x + p * stride;
  for (int64_t k = 0; k < steps; k++) {
    step<DotF32, P, F, H>(acc, xp, k, w, wh, panel_words);
    w += kPanel;
    if constexpr (H != 0) wh += 8;
    asm volatile("" ::: "memory");
  }
}

template <int P, int F, int H>
__attribute__((noinline)) void run_pairs(const PairTiles& t) {
  constexpr int V = vectors(F, H);
  const char* ahead = t.ahead;
  float* sums = t.sums;
  for (int64_t first = 0; first < t.pixels; first += P, sums += P * V * VL) {
    const uint32_t* x = t.x + first * (t.stride / 4);
    if (t.ends) fetch_residual<P, F, H>(t, first);
    vf acc[P][V];
    if constexpr (kPairAssembly && V >= 2) {
      const PairEnd end{sums, t.start, t.bias, t.crossed + first, t.scale + first, t.y, t.residual, t.y_offset + first, t.floor};
      if (t.ends && !t.silu && !t.pool) {
        if (t.begins) pairs_assembly<false, true, P, F, H>(t, x, end, ahead);
        else pairs_assembly<true, true, P, F, H>(t, x, end, ahead);
        continue;
      }
      if (t.begins) pairs_assembly<false, false, P, F, H>(t, x, end, ahead);
      else pairs_assembly<true, false, P, F, H>(t, x, end, ahead);
      if (!t.ends) continue;
#pragma GCC unroll 16
      for (int p = 0; p < P; p++)
#pragma GCC unroll 16
        for (int v = 0; v < V; v++) acc[p][v] = load(sums + (p * V + v) * VL);
    } else {
#pragma GCC unroll 16
      for (int p = 0; p < P; p++)
#pragma GCC unroll 16
        for (int v = 0; v < V; v++) acc[p][v] = vf{};
      const uint32_t* xp[P];
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) xp[p] = x + p * (t.stride / 4);
      const uint32_t *w = t.w, *wh = t.wh;
      int64_t k = 0;
      pair_runs<kPairRun / 3, P, F, H>(acc, xp, k, w, wh, t.panel_words, t.runs, ahead, t.ahead_panel, t.ahead_step);
      if (t.tail) pair_runs<kPairTail / 3, P, F, H>(acc, xp, k, w, wh, t.panel_words, 1, ahead, t.ahead_panel, t.ahead_step);
      if (!t.begins) {
#pragma GCC unroll 16
        for (int p = 0; p < P; p++)
#pragma GCC unroll 16
          for (int v = 0; v < V; v++) acc[p][v] += load(sums + (p * V + v) * VL);
      }
      if (!t.ends) {
#pragma GCC unroll 16
        for (int p = 0; p < P; p++)
#pragma GCC unroll 16
          for (int v = 0; v < V; v++) store(sums + (p * V + v) * VL, acc[p][v]);
        continue;
      }
      x += k;
      if (t.plain) plain_steps<P, F, H>(acc, x, t.stride / 4, t.plain, w, wh, t.panel_words);
    }
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) {
      const vf crossed = broadcast(t.crossed[first + p]), scale = broadcast(t.scale[first + p]);
#pragma GCC unroll 16
      for (int v = 0; v < V; v++)
        acc[p][v] = (acc[p][v] - load_vector<F, H>(t.start, v) - crossed) * scale + load_vector<F, H>(t.bias, v);
    }
    finish_as<float, P, F, H>(acc, t, first);
  }
}

template <int P, int F, int H>
REGNET_INLINE void dispatch_pairs(const PairTiles& t, int pixels_here) {
  if constexpr (P > 1) {
    if (pixels_here < P) return dispatch_pairs<P - 1, F, H>(t, pixels_here);
  }
  run_pairs<P, F, H>(t);
}

// A source's pixels as they are multiplied: scaled, with their gates, one pixel behind the other; then of each the sum of
// its x1 x2, and what brings its sums back to their size.
struct PairPixels {
  float *x, *crossed, *scale;
  PairPixels(float* scratch, int64_t pixels, int64_t channels) : x(scratch), crossed(x + pixels * channels), scale(crossed + pixels) {}
  float* end(int64_t pixels) const { return scale + pixels; }
};

// One of a 1x1's sources: its input, or what a projection reads. Each has a scale of its own, so its sums are brought back before the other's
// are added.
struct PairSource {
  const Conv* conv;          // what its sums go to
  const float* pairs;        // as Conv::pairs, of its weights
  int64_t first, channels;   // rows of the panels
  PairPixels pixels;
};

// Parts of a reduction, and the channels of one of them.
REGNET_INLINE int64_t pair_parts(int64_t total) { return (total / kPairRun + kPairChain - 1) / kPairChain; }
REGNET_INLINE int64_t pair_part(int64_t total, int64_t part) {
  const int64_t runs = total / kPairRun, parts = pair_parts(total);
  return (runs * (part + 1) / parts - runs * part / parts) * kPairRun + (part + 1 == parts ? total % kPairRun : 0);
}

// What is read behind a reduction: so many rows of each panel, these `panel` bytes apart.
struct AfterPairs {
  int64_t rows, panel;
};

// All pixels of the task against a set of panels.
template <int F, int H>
void run_pair_panels(const PanelSet& s, const TaskPixels& px, const PairSource& source, const AfterPairs& after) {
  constexpr int P = pair_pixels(F, H), kLanes = F * 16 + H * 8, kSums = vectors(F, H) * VL;
  const Conv& c = *s.conv;
  const int tiles = (px.count + P - 1) / P, base = px.count / tiles, extra = px.count % tiles;
  const bool partial = s.lanes < kLanes;
  const int lanes = partial ? s.lanes : kLanes;
  float bias[kLanes] = {}, products[kLanes] = {};
  if (c.bias) __builtin_memcpy(bias, c.bias + s.channel, lanes * 4);
  __builtin_memcpy(products, source.pairs + s.channel, lanes * 4);
  const int64_t total = source.channels, runs = total / kPairRun, parts = pair_parts(total);
  alignas(64) float sums[kMaxTaskPixels * kSums];
  float aside[kMaxTaskPixels * kLanes];  // touched only where lanes are missing
  int64_t aside_offset[kMaxTaskPixels];
  if (partial)
    for (int i = 0; i < px.count; i++) aside_offset[i] = i * kLanes;

  PairTiles t;
  t.panel_words = (int64_t)(c.steps + c.steps2) * kPanel;
  t.start = products, t.bias = bias;
  t.stride = total * 4;
  const int64_t rest = total - runs * kPairRun;
  for (int64_t part = 0, run = 0; part < parts; part++) {
    const int64_t end = runs * (part + 1) / parts, at = run * kPairRun;
    set_block<DotF32, F>(t, s, {0, 1, at, 0, 0, 0, source.first + at}, partial, kLanes);
    t.begins = part == 0, t.ends = part + 1 == parts;
    t.runs = end - run, t.tail = t.ends && rest >= kPairTail, t.plain = t.ends ? rest - t.tail * kPairTail : 0;
    run = end;
    if (partial) t.y = aside;
    // The weights of the part that comes next are fetched meanwhile, all of them. (440 channels at 7x7, one run and 8 rows of them not: 13 % slower.)
    const int64_t next_rows = t.ends ? after.rows : pair_part(total, part + 1);
    const int64_t iterations = (t.runs * (kPairRun / 6) + t.tail * (kPairTail / 6)) * tiles, step = (next_rows * 64 + iterations - 1) / iterations;
    t.ahead = t.ends ? s.next : (const char*)(s.w + (source.first + end * kPairRun) * kPanel);
    t.ahead_panel = t.ends ? after.panel : t.panel_words * 4;
    t.ahead_step = step < 128 ? step : 128;
    for (int i = 0, here = base + 1; here >= base; here--) {  // `extra` tiles of one more pixel, then the others
      t.pixels = (here > base ? extra : tiles - extra) * here;
      t.x = (const uint32_t*)source.pixels.x + i * total + at;
      t.y_offset = (partial ? aside_offset : px.y_offset) + i;
      t.sums = sums + i * kSums;
      t.crossed = source.pixels.crossed + i, t.scale = source.pixels.scale + i;
      if (t.pixels) dispatch_pairs<P, F, H>(t, here);
      t.ahead += t.pixels / here * (iterations / tiles) * t.ahead_step;
      i += (int)t.pixels;
    }
  }
  if (partial)
    for (int i = 0; i < px.count; i++) finish_lanes(aside + i * kLanes, s, px.y_offset[i]);
}

REGNET_INLINE void dispatch_pair_panels(int full, int half, const PanelSet& s, const TaskPixels& px, const PairSource& source, const AfterPairs& after) {
  switch (full * 2 + half) {
    case 1: return run_pair_panels<0, 1>(s, px, source, after);
    case 2: return run_pair_panels<1, 0>(s, px, source, after);
    case 3: return run_pair_panels<1, 1>(s, px, source, after);
    case 4: return run_pair_panels<2, 0>(s, px, source, after);
    case 5: return run_pair_panels<2, 1>(s, px, source, after);
    case 6: return run_pair_panels<3, 0>(s, px, source, after);
    default: __builtin_trap();
  }
}

// What is kept of a pixel: sums of squares, and of x1 x2 with its signs to be.
struct PairSums {
  vf squares[3], crossed;
};

REGNET_INLINE float sum_of_squares(const PairSums& sums) { return fold_sum(sums.squares[0] + sums.squares[1] + sums.squares[2]); }

// A run or a tail, each of its thirds of LANES channels, from channel k on, times scale (and gate, or null) -> out.
template <int LANES>
REGNET_INLINE void scale_run(const float* in, const float* gate, vf by, int64_t k, float* out, PairSums& sums) {
  vf third[3];
#pragma GCC unroll 3
  for (int i = 0; i < 3; i++) {
    third[i] = load_lanes<LANES>(in + k + i * LANES) * by;
    if (gate) third[i] *= load_lanes<LANES>(gate + k + i * LANES);
    store_lanes<LANES>(out + k + i * LANES, third[i]);
    sums.squares[i] += third[i] * third[i];
  }
  sums.crossed += third[0] * third[1];
}

// A pixel's `count` channels times scale (and gate, or null) -> out.
REGNET_INLINE PairSums scale_pixel(const float* in, const float* gate, float scale, int64_t count, float* out) {
  const vf by = broadcast(scale);
  PairSums sums{};
  int64_t k = 0;
  for (; k + kPairRun <= count; k += kPairRun) scale_run<VL>(in, gate, by, k, out, sums);
  if (k + kPairTail <= count) scale_run<8>(in, gate, by, k, out, sums), k += kPairTail;
  for (; k + 8 <= count; k += 8) {
    vf v = load_lanes<8>(in + k) * by;
    if (gate) v *= load_lanes<8>(gate + k);
    store_lanes<8>(out + k, v);
    sums.squares[0] += v * v;
  }
  if (k < count) {
    float rest[VL] = {};
    for (int64_t i = k; i < count; i++) rest[i - k] = gate ? in[i] * scale * gate[i] : in[i] * scale;
    const vf v = load(rest);
    __builtin_memcpy(out + k, rest, (count - k) * 4);
    sums.squares[0] += v * v;
  }
  return sums;
}

REGNET_INLINE float power_of_4(int exponent) {
  const uint32_t bits = (uint32_t)(127 + 2 * exponent) << 23;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}

// The power of 4 by which a pixel that has `exponent` so far should be scaled, where its sum of squares is `squares` now.
REGNET_INLINE int fitting_exponent(float wanted, float squares, int exponent) {
  constexpr int kMost = 24;
  if (squares == 0) return kMost;  // a pixel of zeros, or one that was too small for its squares
  if (!(squares > 0 && squares < __builtin_inff())) return squares > 0 ? -kMost : exponent;  // too large, or NaN
  const float ratio = wanted / squares;
  uint32_t bits;
  __builtin_memcpy(&bits, &ratio, 4);
  const int log2 = (int)(bits >> 23) - 127, fitting = exponent + ((log2 + 2) >> 2);
  return fitting < -kMost ? -kMost : fitting > kMost ? kMost : fitting;
}

// The task's pixels of a source, c's first or second one, from image n on, of which `left` are in it. Each is scaled by a power of 4 that brings it near
// to the weights, pairs[group_out] in the root of the mean square: by what fitted the pixel before, and once more if another one fits better, so
// that it does not matter which that was.
__attribute__((noinline)) void prepare_pairs(const Conv& c, const PairSource& source, const uint32_t* x, const int64_t* x_offset, const float* gates, int count, int64_t n,
                                             int64_t left) {
  const int64_t area = (int64_t)c.out_h * c.out_w, total = source.channels;
  const float size = source.pairs[c.group_out], wanted = size * size * (float)total;
  const vf signs = (vf)((vu)broadcast(1.0f) ^ (odd_lanes() << 31));  // of pairs of odd channels
  int exponent = 0;
  float* out = source.pixels.x;
  for (int i = 0; i < count; i++, out += total) {
    const float* const gate = gates ? gates + n * c.gate_image : nullptr;
    PairSums sums = scale_pixel((const float*)(x + x_offset[i]), gate, power_of_4(exponent), total, out);
    float squares = sum_of_squares(sums);
    for (int tries = 0; tries < 3; tries++) {
      const int fitting = fitting_exponent(wanted, squares, exponent);
      int change = fitting - exponent;
      asm("" : "+r"(change));  // else g++ goes on with `fitting` where it is the same, and the next pixel waits for this one's sum
      if (change == 0) break;
      exponent += change;
      sums = scale_pixel((const float*)(x + x_offset[i]), gate, power_of_4(exponent), total, out);
      squares = sum_of_squares(sums);
    }
    source.pixels.crossed[i] = fold_sum(sums.crossed * signs);
    source.pixels.scale[i] = squares == 0 ? 0 : power_of_4(-exponent);  // nothing but the bias
    if (--left == 0) left = area, n++;
  }
}

void dense_by_pairs(const Conv& c, const ConvTask& task, const TaskPixels& px, uint32_t* scratch) {
  const int64_t area = (int64_t)c.out_h * c.out_w, total = c.steps + c.steps2;
  // The second source's sums are added to what the first one's left in y.
  Conv begin = c, end = c;
  if (c.steps2) begin.activation = Activation::none, end.residual = c.y, end.bias = nullptr;
  const PairPixels pixels((float*)scratch, px.count, c.steps), pixels2(pixels.end(px.count), px.count, c.steps2);
  const PairSource sources[2] = {{&begin, c.pairs, 0, c.steps, pixels}, {&end, c.pairs + c.group_out + 1, c.steps, c.steps2, pixels2}};
  if (!task.prepared) {
    const int64_t n = task.pixel0 / area, left = area - task.pixel0 % area;
    prepare_pairs(c, sources[0], c.x, px.x_offset, c.gate, px.count, n, left);
    if (c.steps2) prepare_pairs(c, sources[1], c.x2, px.x2_offset, nullptr, px.count, n, left);
  }
  const int panels = c.panels_per_group();
  PanelSet t{};
  for (int panel = task.panel0; panel < task.panel1;) {
    int half = task.panel1 == panels && c.group_out % kPanel != 0 && c.group_out % kPanel <= 8, full = task.panel1 - panel - half;
    next_pair_set(full, half);
    t.w = c.w + (int64_t)panel * kPanel * total;
    t.channel = (int64_t)panel * kPanel;
    const int left = c.group_out - panel * kPanel, width = full * kPanel + half * 8;
    t.lanes = left < width ? left : width;
    panel += full + half;
    const int64_t panel_bytes = total * kPanel * 4;
    if (c.steps2) {
      t.conv = sources[0].conv;
      t.next = (const char*)(t.w + c.steps * (full ? kPanel : 8)), t.next_bytes = c.steps2 * width * 4;
      dispatch_pair_panels(full, half, t, px, sources[0], {pair_part(c.steps2, 0), panel_bytes});
    }
    const PairSource& last = sources[c.steps2 != 0];
    t.conv = last.conv;
    t.pool = c.pool ? c.pool + task.pool_slot * c.pool_stride : nullptr;
    next_weights(t, task, panel == task.panel1, total * width);
    const bool other = panel == task.panel1 && task.then;
    dispatch_pair_panels(full, half, t, px, last, {pair_part(c.steps, 0), other ? task.then_bytes / kMaxFull : panel_bytes});
    t.pool = nullptr;
  }
}
