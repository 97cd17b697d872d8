// The kernels of one instruction set: compiled once for each, with REGNET_ISA naming it.
//
// The convolution is one micro-kernel for everything: 1x1, grouped and dense k x k, stem and head. A register tile holds
// P pixels x (F full panels of 16 + H half panels of 8) output channels; each step along the reduction axis loads the
// tile's weights once and broadcasts one word of each pixel against them. Channels are in the vector, pixels are
// pointers: so a tile may cross rows and images, strides cost nothing, and a 7 x 7 map fills it.
#include "kernels.h"

#if !defined(REGNET_ISA)
#error "compile with -DREGNET_ISA=baseline|avx2|avx512|avx512_bf16"
#endif
#define REGNET_CAT_(a, b) a##b
#define REGNET_CAT(a, b) REGNET_CAT_(a, b)
#define REGNET_STR_(a) #a
#define REGNET_STR(a) REGNET_STR_(a)
#define REGNET_IS_baseline 1
#define REGNET_IS_avx2 2
#define REGNET_IS_avx512 3
#define REGNET_IS_avx512_bf16 4
#define REGNET_LEVEL REGNET_CAT(REGNET_IS_, REGNET_ISA)

#if REGNET_LEVEL >= 3
#define VL 16
#elif REGNET_LEVEL == 2
#define VL 8
#else
#define VL 4
#endif
#if REGNET_LEVEL == 4 && defined(__AVX512BF16__)
#define REGNET_NATIVE_BF16 1
#include <immintrin.h>
#endif

namespace regnet_kernels::cpu {
namespace {

#include "vec.h"

// ---- register tiles ----------------------------------------------------------------------------------------------------

constexpr int kVectorsPerPanel = 16 / VL;
constexpr int kVectorsPerHalf = VL == 16 ? 1 : 8 / VL;
constexpr int vectors(int full, int half) { return full * kVectorsPerPanel + half * kVectorsPerHalf; }

// Widest tile in panels, and the pixels of a tile of F + H panels: as many accumulators as the register file holds beside
// the weights and one broadcast (16 registers on SSE2 and AVX2, 32 on NEON and AVX-512), at most 8 pixel pointers, since
// these live in the general registers.
#if VL == 16
constexpr int kMaxFull = 3;
constexpr bool kHalfJoins = true;  // may a half panel join full ones in one tile?
template <class Dot> constexpr int pixels(int, int) { return 8; }
#elif VL == 8
constexpr int kMaxFull = 1;
constexpr bool kHalfJoins = true;
template <class Dot> constexpr int pixels(int full, int half) {
  if (__is_same(Dot, DotBf16)) return full && half ? 2 : full ? 4 : 8;  // widening takes registers
  return full && half ? 4 : full ? 6 : 8;
}
#elif defined(__aarch64__)
constexpr int kMaxFull = 1;
constexpr bool kHalfJoins = false;
template <class Dot> constexpr int pixels(int full, int) { return full ? 6 : 8; }
#else
constexpr int kMaxFull = 1;
constexpr bool kHalfJoins = false;
template <class Dot> constexpr int pixels(int full, int) { return full ? 3 : 6; }
#endif

// A tile's operands; pixel offsets are relative to the bases of the task.
struct Tile {
  const Conv* conv;
  const uint32_t* x;        // base + group offset
  const int64_t* x_offset;  // [P]
  const int64_t* x2_offset; // [P]
  const uint32_t* w;        // first panel of the tile
  const int64_t* y_offset;  // [P]
  int64_t channel;          // first output channel of the tile
  int lanes;                // output channels that exist in the tile (<= its width)
  float* pool;              // this task's sums, or null
};

REGNET_INLINE vu load_half(const uint32_t* p, int v) {
#if VL == 16
  (void)v;
  return load_half_words(p);
#else
  return load_words(p + v * VL);
#endif
}

// One step: the tile's weights once, then one word of each pixel against them.
template <class Dot, int P, int F, int H>
REGNET_INLINE void step(vf (&acc)[P][vectors(F, H)], const uint32_t* const (&xp)[P], int64_t k, const uint32_t* w,
                        const uint32_t* wh, int64_t panel_words) {
  constexpr int V = vectors(F, H);
  vu b[V];
#pragma GCC unroll 8
  for (int f = 0; f < F; f++) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectorsPerPanel; v++) b[f * kVectorsPerPanel + v] = load_words(w + f * panel_words + v * VL);
  }
  if constexpr (H != 0) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectorsPerHalf; v++) b[F * kVectorsPerPanel + v] = load_half(wh, v);
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) {
    const uint32_t s = xp[p][k];
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) acc[p][v] = Dot::dot(acc[p][v], s, b[v]);
  }
}

// acc += x[0 .. steps) . w for P pixels. `w` walks the full panels (16 words a step), `wh` the half panel (8 words).
template <class Dot, int P, int F, int H>
REGNET_INLINE void accumulate(vf (&acc)[P][vectors(F, H)], const uint32_t* const (&xp)[P], const uint32_t* w,
                              const uint32_t* wh, int64_t panel_words, int steps) {
  // Left rolled: g++ 12 spills accumulators when it unrolls this (4 steps at a time lost 5-30 % on AVX2).
  for (int64_t k = 0; k < steps; k++) step<Dot, P, F, H>(acc, xp, k, w + k * 16, wh + k * 8, panel_words);
}

REGNET_INLINE vf activate(vf v, Activation a) {
  if (a == Activation::relu) return relu(v);
  if (a == Activation::silu) return silu(v);
  return v;
}

// Vector v of a tile covers lanes [first, first + count).
template <int F, int H>
constexpr int first_lane(int v) { return v < F * kVectorsPerPanel ? v * VL : F * 16 + (v - F * kVectorsPerPanel) * VL; }
template <int F, int H>
constexpr int lane_count(int v) { return v < F * kVectorsPerPanel ? VL : VL == 16 ? 8 : VL; }

template <int LANES>
REGNET_INLINE void store_lanes(float* y, vf v) {
  __builtin_memcpy(y, &v, LANES * 4);
}
template <int LANES>
REGNET_INLINE void store_lanes(uint16_t* y, vf v) {
  const vh h = to_bf16(v);
  __builtin_memcpy(y, &h, LANES * 2);
}
template <int LANES>
REGNET_INLINE vf load_lanes(const float* p) {
  vf v{};
  __builtin_memcpy(&v, p, LANES * 4);
  return v;
}
template <int LANES>
REGNET_INLINE vf load_lanes(const uint16_t* p) {
  vh h{};
  __builtin_memcpy(&h, p, LANES * 2);
  return (vf)(__builtin_convertvector(h, vu) << 16);
}
REGNET_INLINE float to_float(float v) { return v; }
REGNET_INLINE float to_float(uint16_t v) { return bf16_to_float(v); }
REGNET_INLINE void put(float* y, float v) { *y = v; }
REGNET_INLINE void put(uint16_t* y, float v) { *y = float_to_bf16(v); }

template <int F, int H, int V, int v>
struct ForVectors {
  template <class Fn> static REGNET_INLINE void run(Fn&& fn) {
    fn.template operator()<v>();
    if constexpr (v + 1 < V) ForVectors<F, H, V, v + 1>::run(fn);
  }
};

template <class Y, int P, int F, int H>
REGNET_INLINE void finish(vf (&acc)[P][vectors(F, H)], const Tile& t) {
  constexpr int V = vectors(F, H);
  constexpr int kLanes = F * 16 + H * 8;
  const Conv& c = *t.conv;
  Y* const y = static_cast<Y*>(c.y) + t.channel;
  const Y* const residual = c.residual ? static_cast<const Y*>(c.residual) + t.channel : nullptr;
  if (t.lanes == kLanes) {
    if (residual) {
#pragma GCC unroll 16
      for (int p = 0; p < P; p++)
        ForVectors<F, H, V, 0>::run([&]<int v>() __attribute__((always_inline)) {
          acc[p][v] += load_lanes<lane_count<F, H>(v)>(residual + t.y_offset[p] + first_lane<F, H>(v));
        });
    }
    if (c.activation != Activation::none) {
      if (c.activation == Activation::relu) {
#pragma GCC unroll 16
        for (int p = 0; p < P; p++)
#pragma GCC unroll 16
          for (int v = 0; v < V; v++) acc[p][v] = relu(acc[p][v]);
      } else {
        for (int p = 0; p < P; p++)
          for (int v = 0; v < V; v++) acc[p][v] = silu(acc[p][v]);
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
      ForVectors<F, H, V, 0>::run([&]<int v>() __attribute__((always_inline)) {
        store_lanes<lane_count<F, H>(v)>(y + t.y_offset[p] + first_lane<F, H>(v), acc[p][v]);
      });
    if (t.pool) {
      float* const pool = t.pool + t.channel;
      ForVectors<F, H, V, 0>::run([&]<int v>() __attribute__((always_inline)) {
        vf sum = acc[0][v];
#pragma GCC unroll 16
        for (int p = 1; p < P; p++) sum += acc[p][v];
        float* const at = pool + first_lane<F, H>(v);
        store_lanes<lane_count<F, H>(v)>(at, load_lanes<lane_count<F, H>(v)>(at) + sum);
      });
    }
    return;
  }
  // Channels that do not fill the tile (a count that is no multiple of 8): through memory, lane by lane.
  for (int p = 0; p < P; p++) {
    float out[V * VL];
    for (int v = 0; v < V; v++) store(out + v * VL, acc[p][v]);
    if (residual)
      for (int i = 0; i < t.lanes; i++) out[i] += to_float(residual[t.y_offset[p] + i]);
    for (int v = 0; v < V; v++) store(out + v * VL, activate(load(out + v * VL), c.activation));
    for (int i = 0; i < t.lanes; i++) put(y + t.y_offset[p] + i, out[i]);
    if (t.pool)
      for (int i = 0; i < t.lanes; i++) t.pool[t.channel + i] += out[i];
  }
}

template <class Dot, int P, int F, int H>
void run_tile(const Tile& t) {
  constexpr int V = vectors(F, H);
  constexpr int kLanes = F * 16 + H * 8;
  const Conv& c = *t.conv;
  vf acc[P][V];
  if (c.bias == nullptr) {
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) acc[p][v] = vf{};
  } else if (t.lanes == kLanes) {
    ForVectors<F, H, V, 0>::run([&]<int v>() __attribute__((always_inline)) {
      const vf b = load_lanes<lane_count<F, H>(v)>(c.bias + t.channel + first_lane<F, H>(v));
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) acc[p][v] = b;
    });
  } else {
    float b[V * VL] = {};
    for (int i = 0; i < t.lanes; i++) b[i] = c.bias[t.channel + i];
    for (int v = 0; v < V; v++) {
      const vf bias = load(b + v * VL);
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) acc[p][v] = bias;
    }
  }
  const int64_t total = (int64_t)c.taps * c.steps + c.steps2, panel_words = total * 16;
  const uint32_t* w = t.w;
  const uint32_t* wh = t.w + F * panel_words;
  for (int tap = 0; tap < c.taps; tap++) {
    const int64_t offset = c.tap_offset[tap];
    const uint32_t* xp[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) xp[p] = t.x + t.x_offset[p] + offset;
    accumulate<Dot, P, F, H>(acc, xp, w, wh, panel_words, c.steps);
    w += (int64_t)c.steps * 16;
    wh += (int64_t)c.steps * 8;
  }
  if (c.steps2) {
    const uint32_t* xp[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) xp[p] = c.x2 + t.x2_offset[p];
    accumulate<Dot, P, F, H>(acc, xp, w, wh, panel_words, c.steps2);
  }
  if (c.y_type == Type::f32) finish<float, P, F, H>(acc, t);
  else finish<uint16_t, P, F, H>(acc, t);
}

template <class Dot, int P, int F, int H>
REGNET_INLINE void dispatch_pixels(const Tile& t, int pixels_here) {
  if constexpr (P > 1) {
    if (pixels_here < P) return dispatch_pixels<Dot, P - 1, F, H>(t, pixels_here);
  }
  run_tile<Dot, P, F, H>(t);
}

struct TaskPixels {
  const uint32_t* x;
  int64_t x_offset[kMaxTaskPixels], x2_offset[kMaxTaskPixels], y_offset[kMaxTaskPixels];
  int count;
};

// All pixels of the task against one tile-wide set of panels. The pixels are shared out evenly over the tiles: 49 pixels
// in tiles of 6 become 4 x 6 and 5 x 5, never 8 x 6 and one lonely pixel.
//
// Between tiles, the weights that come after these are prefetched into L2, a share a tile: they are read once a task, from
// L3 or memory, and the first tile to meet them would wait for every line (80 -> 90 % of the peak at 400 channels, 14 x 14).
template <class Dot, int F, int H>
void run_panels(Tile t, const TaskPixels& px) {
  constexpr int P = pixels<Dot>(F, H);
  const int tiles = (px.count + P - 1) / P, base = px.count / tiles, extra = px.count % tiles;
  const int64_t words = (F * 16 + H * 8) * ((int64_t)t.conv->taps * t.conv->steps + t.conv->steps2);
  const char* next = (const char*)(t.w + words);
  const int64_t share = (words * 4 / tiles + 63) / 64 * 64;
  for (int i = 0, at = 0; i < tiles; i++) {
    const int here = base + (i < extra);
    for (int64_t b = 0; b < share; b += 64) __builtin_prefetch(next + b, 0, 2);
    next += share;
    t.x_offset = px.x_offset + at;
    t.x2_offset = px.x2_offset + at;
    t.y_offset = px.y_offset + at;
    dispatch_pixels<Dot, P, F, H>(t, here);
    at += here;
  }
}

template <class Dot>
void conv_typed(const Conv& c, const ConvTask& task, uint32_t* scratch) {
  TaskPixels px;
  px.count = (int)(task.pixel1 - task.pixel0);
  if (px.count <= 0) return;
  const int64_t area = (int64_t)c.out_h * c.out_w;
  {
    int64_t n = task.pixel0 / area, oh = task.pixel0 % area / c.out_w, ow = task.pixel0 % c.out_w;
    for (int i = 0; i < px.count; i++) {
      px.x_offset[i] = n * c.x_image + oh * c.x_row + ow * c.x_pixel;
      px.x2_offset[i] = n * c.x2_image + oh * c.x2_row + ow * c.x2_pixel;
      px.y_offset[i] = n * c.y_image + oh * c.y_row + ow * c.y_pixel;
      if (++ow == c.out_w) {
        ow = 0;
        if (++oh == c.out_h) oh = 0, n++;
      }
    }
  }
  px.x = c.x;
  if (c.gate) {  // scale the task's input once, into scratch: the multiplication is 1/channels of the work that follows
    int64_t n = task.pixel0 / area, left = area - task.pixel0 % area;
    for (int i = 0; i < px.count; i++) {
      const float* gate = c.gate + n * c.gate_image;
      uint32_t* out = scratch + (int64_t)i * c.steps;
      if (__is_same(Dot, DotF32)) {
        const float* in = (const float*)(c.x + px.x_offset[i]);
        float* o = (float*)out;
        int k = 0;
        for (; k + VL <= c.steps; k += VL) store(o + k, load(in + k) * load(gate + k));
        for (; k < c.steps; k++) o[k] = in[k] * gate[k];
      } else {
        const uint16_t* in = (const uint16_t*)(c.x + px.x_offset[i]);
        uint16_t* o = (uint16_t*)out;
        int k = 0;
        for (; k + VL <= 2 * c.steps; k += VL) store_lanes<VL>(o + k, from_bf16(in + k) * load(gate + k));
        for (; k < 2 * c.steps; k++) o[k] = float_to_bf16(bf16_to_float(in[k]) * gate[k]);
      }
      px.x_offset[i] = (int64_t)i * c.steps;
      if (--left == 0) left = area, n++;
    }
    px.x = scratch;
  }
  const int64_t channels = (int64_t)c.groups * c.group_out;
  const int per_group = (int)panel_count(c.group_out);
  const int64_t total = (int64_t)c.taps * c.steps + c.steps2;
  const bool half_tail = c.group_out % 16 != 0 && c.group_out % 16 <= 8;
  Tile t{};
  t.conv = &c;
  t.pool = c.pool ? c.pool + task.pool_slot * channels : nullptr;
  if (t.pool) {
    for (int panel = task.panel0; panel < task.panel1; panel++) {
      const int64_t first = (int64_t)(panel / per_group) * c.group_out + panel % per_group * 16;
      const int64_t last = (int64_t)(panel / per_group) * c.group_out + c.group_out;
      for (int64_t i = first; i < first + 16 && i < last; i++) t.pool[i] = 0;
    }
  }
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
    t.x = px.x + (int64_t)group * c.steps;
    t.w = c.w + group * c.w_group + (int64_t)in_group * 16 * total;
    t.channel = (int64_t)group * c.group_out + in_group * 16;
    const int64_t left = c.group_out - in_group * 16;
    const int width = full * 16 + half * 8;
    t.lanes = left < width ? (int)left : width;
    switch (full * 2 + half) {
      case 1: run_panels<Dot, 0, 1>(t, px); break;
      case 2: run_panels<Dot, 1, 0>(t, px); break;
#if VL == 8
      case 3: run_panels<Dot, 1, 1>(t, px); break;
#endif
#if VL == 16
      case 3: run_panels<Dot, 1, 1>(t, px); break;
      case 4: run_panels<Dot, 2, 0>(t, px); break;
      case 5: run_panels<Dot, 2, 1>(t, px); break;
      case 6: run_panels<Dot, 3, 0>(t, px); break;
#endif
      default: __builtin_trap();
    }
    panel += full + half;
  }
}

void conv(const Conv& c, const ConvTask& task, uint32_t* scratch) {
  if (c.type == Type::f32) conv_typed<DotF32>(c, task, scratch);
  else conv_typed<DotBf16>(c, task, scratch);
}

// ---- squeeze and excite ------------------------------------------------------------------------------------------------

REGNET_INLINE float horizontal_sum(vf v) {
  float lanes[VL], sum = 0;
  store(lanes, v);
  for (int i = 0; i < VL; i++) sum += lanes[i];
  return sum;
}

// pooled = sums over slots / count, then rows [squeeze0, squeeze1) of relu(w1 pooled + b1), for all images: each row of
// w1 is read once for all of them.
void se_reduce_fc1(const SqueezeExcite& s, int squeeze0, int squeeze1, float* pooled) {
  const int64_t channels = s.channels;
  for (int n = 0; n < s.images; n++) {
    const float* sums = s.sums + n * s.slots * channels;
    float* out = pooled + n * channels;
    int64_t c = 0;
    for (; c + VL <= channels; c += VL) {
      vf total{};
      for (int64_t slot = 0; slot < s.slots; slot++) total += load(sums + slot * channels + c);
      store(out + c, total * broadcast(s.inverse_count));
    }
    for (; c < channels; c++) {
      float total = 0;
      for (int64_t slot = 0; slot < s.slots; slot++) total += sums[slot * channels + c];
      out[c] = total * s.inverse_count;
    }
  }
  for (int row = squeeze0; row < squeeze1; row++) {
    const float* w = s.w1 + row * channels;
    for (int n = 0; n < s.images; n++) {
      const float* x = pooled + n * channels;
      vf a{}, b{};
      int64_t c = 0;
      for (; c + 2 * VL <= channels; c += 2 * VL) {
        a += load(w + c) * load(x + c);
        b += load(w + c + VL) * load(x + c + VL);
      }
      float sum = horizontal_sum(a + b);
      for (; c < channels; c++) sum += w[c] * x[c];
      sum += s.b1[row];
      s.hidden[(int64_t)n * s.squeeze + row] = sum < 0 ? 0 : sum;
    }
  }
}

// gate[:, channel0:channel1] = sigmoid(w2 hidden + b2)
void se_fc2(const SqueezeExcite& s, int channel0, int channel1) {
  for (int n = 0; n < s.images; n++) {
    const float* hidden = s.hidden + (int64_t)n * s.squeeze;
    float* gate = s.gate + (int64_t)n * s.channels;
    int c = channel0;
    for (; c + 4 * VL <= channel1; c += 4 * VL) {
      vf a[4];
      for (int v = 0; v < 4; v++) a[v] = load(s.b2 + c + v * VL);
      for (int row = 0; row < s.squeeze; row++) {
        const vf h = broadcast(hidden[row]);
        const float* w = s.w2t + (int64_t)row * s.channels + c;
        for (int v = 0; v < 4; v++) a[v] += h * load(w + v * VL);
      }
      for (int v = 0; v < 4; v++) store(gate + c + v * VL, sigmoid(a[v]));
    }
    for (; c < channel1; c += VL) {
      const int lanes = channel1 - c < VL ? channel1 - c : VL;
      float out[VL] = {};
      for (int i = 0; i < lanes; i++) out[i] = s.b2[c + i];
      for (int row = 0; row < s.squeeze; row++) {
        const float* w = s.w2t + (int64_t)row * s.channels + c;
        for (int i = 0; i < lanes; i++) out[i] += hidden[row] * w[i];
      }
      store(out, sigmoid(load(out)));
      for (int i = 0; i < lanes; i++) gate[c + i] = out[i];
    }
  }
}

// ---- pooling and scaling -----------------------------------------------------------------------------------------------

template <class T>
void sum_pixels_typed(const T* x, int64_t pixels, int64_t channels, float* sums) {
  int64_t c = 0;
  for (; c + 4 * VL <= channels; c += 4 * VL) {
    vf a[4] = {};
    for (int64_t p = 0; p < pixels; p++)
      for (int v = 0; v < 4; v++) a[v] += load_lanes<VL>(x + p * channels + c + v * VL);
    for (int v = 0; v < 4; v++) store(sums + c + v * VL, a[v]);
  }
  for (; c < channels; c++) {
    float sum = 0;
    for (int64_t p = 0; p < pixels; p++) sum += to_float(x[p * channels + c]);
    sums[c] = sum;
  }
}
void sum_pixels(Type type, const void* x, int64_t pixels, int64_t channels, float* sums) {
  if (type == Type::f32) sum_pixels_typed((const float*)x, pixels, channels, sums);
  else sum_pixels_typed((const uint16_t*)x, pixels, channels, sums);
}

template <class T>
void scale_pixels_typed(const T* x, const float* gate, T* y, int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; p++) {
    int64_t c = 0;
    for (; c + VL <= channels; c += VL)
      store_lanes<VL>(y + p * channels + c, load_lanes<VL>(x + p * channels + c) * load(gate + c));
    for (; c < channels; c++) put(y + p * channels + c, to_float(x[p * channels + c]) * gate[c]);
  }
}
void scale_pixels(Type type, const void* x, const float* gate, void* y, int64_t pixels, int64_t channels) {
  if (type == Type::f32) scale_pixels_typed((const float*)x, gate, (float*)y, pixels, channels);
  else scale_pixels_typed((const uint16_t*)x, gate, (uint16_t*)y, pixels, channels);
}

void store_scaled(Type type, const float* sums, float scale, void* y, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    if (type == Type::f32) ((float*)y)[i] = sums[i] * scale;
    else ((uint16_t*)y)[i] = float_to_bf16(sums[i] * scale);
  }
}

// ---- the machine's peak ------------------------------------------------------------------------------------------------

double fma_burst(int64_t iterations, float* sink) {
  constexpr int kChains = 12;
  vf a[kChains];
  for (int i = 0; i < kChains; i++) a[i] = broadcast(sink[0] + (float)i);
  const vf m = broadcast(sink[1]), b = broadcast(sink[2]);
  for (int64_t k = 0; k < iterations; k++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) a[i] = a[i] * m + b;
  }
  vf sum = a[0];
  for (int i = 1; i < kChains; i++) sum += a[i];
  sink[3] = horizontal_sum(sum);
  return (double)iterations * kChains * VL * 2;
}

}  // namespace

extern const Kernels REGNET_CAT(kernels_, REGNET_ISA);
const Kernels REGNET_CAT(kernels_, REGNET_ISA) = {
    REGNET_STR(REGNET_ISA), VL,
#if defined(REGNET_NATIVE_BF16)
    true,
#else
    false,
#endif
    pixels<DotF32>(kMaxFull, 0), kMaxFull, conv, se_reduce_fc1, se_fc2, sum_pixels, scale_pixels, store_scaled, fma_burst,
};

}  // namespace regnet_kernels::cpu
