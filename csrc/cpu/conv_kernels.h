// The convolution: every kernel size, grouping and stride, on the register tiles. Included by kernels.cpp alone.
// A tile's operands; pixel offsets are relative to the bases of the task.
struct Tile {
  const Conv* conv;
  const uint32_t* x;        // base + group offset
  const int64_t* x_offset;  // [P]
  const int64_t* x2_offset; // [P]
  const uint32_t* w;        // first panel of the tile
  const int64_t* y_offset;  // [P]
  const int64_t* residual_offset;  // [P]
  int64_t channel;          // first output channel of the tile
  int lanes;                // output channels that exist in the tile (<= its width)
  float* pool;              // this task's sums, or null
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
          acc[p][v] += load_lanes<lane_count<F, H>(v)>(residual + t.residual_offset[p] + first_lane<F, H>(v));
        });
    }
    if (c.activation != Activation::none) {
      if (c.activation == Activation::relu) {
#pragma GCC unroll 16
        for (int p = 0; p < P; p++)
#pragma GCC unroll 16
          for (int v = 0; v < V; v++) acc[p][v] = relu(acc[p][v]);
      } else {
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
      for (int i = 0; i < t.lanes; i++) out[i] += to_float(residual[t.residual_offset[p] + i]);
    vf activated[V];
    for (int v = 0; v < V; v++) activated[v] = load(out + v * VL);
    if (c.activation == Activation::silu) silu_all(activated, V);
    for (int v = 0; v < V; v++) store(out + v * VL, c.activation == Activation::relu ? relu(activated[v]) : activated[v]);
    for (int i = 0; i < t.lanes; i++) put(y + t.y_offset[p] + i, out[i]);
    if (t.pool)
      for (int i = 0; i < t.lanes; i++) t.pool[t.channel + i] += out[i];
  }
}

// The longest chain of additions into one accumulator. One chain of K errs by about sqrt(K) / 5 units in the last place of
// the result, so longer sums are cut: the accumulators are put aside and begin again at zero (costs 1-2 % where it happens).
constexpr int kChain = 512;

template <class Dot, int P, int F, int H, bool Long>
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
  vf aside[P][V];
  bool cut = false;
  int chain = 0;
  const auto put_aside = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) {
        aside[p][v] = cut ? aside[p][v] + acc[p][v] : acc[p][v];
        acc[p][v] = vf{};
      }
    cut = true;
    chain = 0;
  };
  const auto add = [&](const uint32_t* const(&xp)[P], int64_t first, int steps) __attribute__((always_inline)) {
    if constexpr (!Long) {
      accumulate<Dot, P, F, H>(acc, xp, first, w, wh, panel_words, steps);
    } else {
      for (int at = 0; at < steps;) {
        const int here = steps - at < kChain ? steps - at : kChain;
        if (chain + here > kChain) put_aside();
        accumulate<Dot, P, F, H>(acc, xp, first + at, w, wh, panel_words, here);
        at += here;
        chain += here;
      }
    }
  };
  const uint32_t* xp[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) xp[p] = t.x + t.x_offset[p];
  for (int tap = 0; tap < c.taps; tap++) add(xp, c.tap_offset[tap], c.steps);
  if (c.steps2) {
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) xp[p] = c.x2 + t.x2_offset[p];
    add(xp, 0, c.steps2);
  }
  if (Long && cut) {
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) acc[p][v] += aside[p][v];
  }
  if (c.y_type == Type::f32) finish<float, P, F, H>(acc, t);
  else finish<uint16_t, P, F, H>(acc, t);
}

template <class Dot, int P, int F, int H, bool Long>
REGNET_INLINE void dispatch_pixels(const Tile& t, int pixels_here) {
  if constexpr (P > 1) {
    if (pixels_here < P) return dispatch_pixels<Dot, P - 1, F, H, Long>(t, pixels_here);
  }
  run_tile<Dot, P, F, H, Long>(t);
}

struct TaskPixels {
  const uint32_t* x;
  int64_t x_offset[kMaxTaskPixels], x2_offset[kMaxTaskPixels], y_offset[kMaxTaskPixels], residual_offset[kMaxTaskPixels];
  int count;
};

// All pixels of the task against one tile-wide set of panels. The pixels are shared out evenly over the tiles: 49 pixels
// in tiles of 6 become 4 x 6 and 5 x 5, never 8 x 6 and one lonely pixel.
//
// No software prefetch of the weights that come next: on Zen 3 it won nothing on 14 x 14 and lost 10-20 % where a panel is larger
// than L1 (888 channels); the hardware follows these streams.
template <class Dot, int F, int H>
void run_panels(Tile t, const TaskPixels& px) {
  constexpr int P = pixels<Dot>(F, H);
  const int tiles = (px.count + P - 1) / P, base = px.count / tiles, extra = px.count % tiles;
  const bool chained = (int64_t)t.conv->taps * t.conv->steps + t.conv->steps2 > kChain + kChain / 4;
  for (int i = 0, at = 0; i < tiles; i++) {
    const int here = base + (i < extra);
    t.x_offset = px.x_offset + at;
    t.x2_offset = px.x2_offset + at;
    t.y_offset = px.y_offset + at;
    t.residual_offset = px.residual_offset + at;
    if (chained) dispatch_pixels<Dot, P, F, H, true>(t, here);
    else dispatch_pixels<Dot, P, F, H, false>(t, here);
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
      px.residual_offset[i] = n * c.residual_image + oh * c.y_row + ow * c.y_pixel;
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
        for (; k < c.steps; k++) {  // by memcpy: the tiles read these words as another type
          const float scaled = in[k] * gate[k];
          __builtin_memcpy(o + k, &scaled, sizeof scaled);
        }
      } else {
        const uint16_t* in = (const uint16_t*)(c.x + px.x_offset[i]);
        uint16_t* o = (uint16_t*)out;
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
#if VL >= 8
      case 3: run_panels<Dot, 1, 1>(t, px); break;
#endif
#if VL == 16
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
