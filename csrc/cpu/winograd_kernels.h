// Winograd F(4x4, 3x3) on NHWC float32, channels in the vector for both transforms. Included by kernels.cpp alone.
//
// The interpolation points are 0, +-1/sqrt(2), +-sqrt(2) and infinity: with the usual 0, +-1, +-2 the error against float64
// is about 9 times a direct convolution's, with these 2.5 times (24 channels, random data), at the same number of operations.
constexpr float kHalfRoot = 0.70710678118654752f, kRoot = 1.4142135623730951f;

// B^T d for one line of 6
REGNET_INLINE void input_line(const vf (&d)[6], vf (&out)[6]) {
  const vf h = broadcast(kHalfRoot), r = broadcast(kRoot), two = broadcast(2.0f), half = broadcast(0.5f), c = broadcast(2.5f);
  const vf even_a = d[4] - two * d[2], odd_a = h * (d[3] - two * d[1]);
  const vf even_b = d[4] - half * d[2], odd_b = r * (d[3] - half * d[1]);
  out[0] = d[4] - c * d[2] + d[0];
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = d[5] - c * d[3] + d[1];
}

// A^T m for one line of 6
REGNET_INLINE void output_line(const vf (&m)[6], vf (&out)[4]) {
  const vf sum_a = m[1] + m[2], diff_a = broadcast(kHalfRoot) * (m[1] - m[2]);
  const vf sum_b = m[3] + m[4], diff_b = broadcast(kRoot) * (m[3] - m[4]);
  out[0] = m[0] + sum_a + sum_b;
  out[1] = diff_a + diff_b;
  out[2] = broadcast(0.5f) * sum_a + broadcast(2.0f) * sum_b;
  out[3] = m[5] + broadcast(0.5f) * diff_a + broadcast(2.0f) * diff_b;
}

// LANES channels of one tile: 6x6 pixels of x -> 36 vectors, `plane` floats apart.
template <int LANES>
REGNET_INLINE void transform_input(const float* x, int64_t row, int64_t pixel, float* v, int64_t plane) {
  vf t[6][6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; j++) {
    vf d[6], out[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) d[i] = load_lanes<LANES>(x + i * row + j * pixel);
    input_line(d, out);
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) t[i][j] = out[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < 6; i++) {
    vf out[6];
    input_line(t[i], out);
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) store_lanes<LANES>(v + (i * 6 + j) * plane, out[j]);
  }
}

// LANES channels of one tile back: bias, activation, and up to 4x4 pixels of y (fewer at the right and lower edge).
template <int LANES>
REGNET_INLINE void transform_output(const float* m, int64_t plane, vf bias, const Winograd& w, float* y, int rows, int columns,
                                    float* pool) {
  vf t[4][6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; j++) {
    vf in[6], out[4];
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) in[i] = load_lanes<LANES>(m + (i * 6 + j) * plane);
    output_line(in, out);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) t[i][j] = out[i];
  }
  vf sum{};
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    if (i >= rows) break;
    vf out[4];
    output_line(t[i], out);
    float* const line = y + i * w.y_row;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      if (j >= columns) break;
      const vf value = activate(out[j] + bias, w.activation);
      sum += value;
      store_lanes<LANES>(line + j * w.y_pixel, value);
    }
  }
  if (pool) store_lanes<LANES>(pool, load_lanes<LANES>(pool) + sum);
}

// How far ahead weights are fetched: they are many and on small maps each is used a few times, so they come from L3 or memory. At
// the end of a group the next one's follow.
constexpr int64_t kAheadWords = 4096;

// P rows of V (K floats apart) times one tile-wide set of panels -> P rows of M. Weights that come later are fetched from `ahead` on.
template <int P, int F, int H>
void multiply_tile(const float* v, const uint32_t* u, float* m, int k, const char* ahead, int every) {
  constexpr int V = vectors(F, H);
  vf acc[P][V];
  const uint32_t* xp[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) {
    xp[p] = (const uint32_t*)v + (int64_t)p * k;
#pragma GCC unroll 16
    for (int i = 0; i < V; i++) acc[p][i] = vf{};
  }
  const uint32_t *full = u, *half = u + (int64_t)F * 16 * k;
  accumulate_ahead<DotF32, P, F, H>(acc, xp, 0, full, half, (int64_t)16 * k, k, ahead, every);
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
    ForVectors<F, H, V, 0>::run([&]<int i>() __attribute__((always_inline)) {
      store_lanes<lane_count<F, H>(i)>(m + (int64_t)p * k + first_lane<F, H>(i), acc[p][i]);
    });
}

template <int P, int F, int H>
REGNET_INLINE void dispatch_multiply(const float* v, const uint32_t* u, float* m, int k, const char* ahead, int every, int here) {
  if constexpr (P > 1) {
    if (here < P) return dispatch_multiply<P - 1, F, H>(v, u, m, k, ahead, every, here);
  }
  multiply_tile<P, F, H>(v, u, m, k, ahead, every);
}

template <int F, int H>
void multiply_panels(const float* v, const uint32_t* u, float* m, int k, int rows) {
  constexpr int P = pixels<DotF32>(F, H);
  constexpr int kLanes = F * 16 + H * 8;
  const int tiles = (rows + P - 1) / P, base = rows / tiles, extra = rows % tiles, every = tiles * 16 / kLanes + 1;
  const char* const ahead = (const char*)(u + kAheadWords);
  for (int i = 0, at = 0; i < tiles; i++) {
    const int here = base + (i < extra);
    dispatch_multiply<P, F, H>(v + (int64_t)at * k, u, m + (int64_t)at * k, k, ahead + (int64_t)kLanes * 4 * k * i / tiles, every, here);
    at += here;
  }
}

// M (rows, k) = V (rows, k) x U, for one of the 36 positions
REGNET_INLINE void multiply(const float* v, const uint32_t* u, float* m, int k, int rows) {
  int full = k / 16;
  const int half = k % 16 ? 1 : 0;
#if VL == 16
  for (; full > 4 || (full == 4 && half); full -= 3) {  // three at a time, and never three and one at the end
    multiply_panels<3, 0>(v, u, m, k, rows);
    u += 48 * (int64_t)k, m += 48;
  }
  if (full == 4 || (full == 3 && half)) {
    multiply_panels<2, 0>(v, u, m, k, rows);
    u += 32 * (int64_t)k, m += 32, full -= 2;
  }
#else
  while (full > kMaxFull || (full == kMaxFull && half && !kHalfJoins)) {
    multiply_panels<1, 0>(v, u, m, k, rows);
    u += 16 * (int64_t)k, m += 16, full--;
  }
#endif
  switch (full * 2 + half) {
    case 1: multiply_panels<0, 1>(v, u, m, k, rows); break;
    case 2: multiply_panels<1, 0>(v, u, m, k, rows); break;
#if VL >= 8
    case 3: multiply_panels<1, 1>(v, u, m, k, rows); break;
#endif
#if VL == 16
    case 4: multiply_panels<2, 0>(v, u, m, k, rows); break;
    case 5: multiply_panels<2, 1>(v, u, m, k, rows); break;
    case 6: multiply_panels<3, 0>(v, u, m, k, rows); break;
#endif
    default: __builtin_trap();
  }
}

void winograd(const Winograd& w, const WinogradTask& task, float* scratch) {
  const int k = w.group_width;
  const int64_t channels = (int64_t)w.groups * k, block = winograd_block(k), tiles_per_image = (int64_t)w.tiles_h * w.tiles_w;
  const int64_t first_image = task.tile0 / tiles_per_image;
  const int64_t images = task.tile1 > task.tile0 ? (task.tile1 - 1) / tiles_per_image - first_image + 1 : 1;
  float* const pool = w.pool ? w.pool + task.pool_slot * channels : nullptr;
  if (pool)
    for (int64_t n = 0; n < images; n++)
      for (int64_t c = (int64_t)task.group0 * k; c < (int64_t)task.group1 * k; c++) pool[n * channels + c] = 0;
  const int64_t count = task.tile1 - task.tile0, blocks = (count + block - 1) / block;
  for (int group = task.group0; group < task.group1; group++) {
    const float* const x = w.x + (int64_t)group * k;
    const uint32_t* const u = (const uint32_t*)w.u + (int64_t)group * 36 * panel_lanes(k) * k;
    float* const y = w.y + (int64_t)group * k;
    const float* const bias = w.bias + (int64_t)group * k;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t first = task.tile0 + count * b / blocks, last = task.tile0 + count * (b + 1) / blocks;
      const int rows = (int)(last - first);
      // an odd number of cache lines: 36 planes a power of two apart would all fall into two sets of L1
      const int64_t plane = (((int64_t)rows * k + 15) / 16 | 1) * 16;
      float *const v = scratch, *const m = scratch + 36 * plane;
      for (int64_t t = first; t < last; t++) {
        const int64_t n = t / tiles_per_image, ty = t % tiles_per_image / w.tiles_w, tx = t % w.tiles_w;
        const float* from = x + n * w.x_image + ty * 4 * w.x_row + tx * 4 * w.x_pixel;
        float* to = v + (t - first) * k;
        int c = 0;
        for (; c + VL <= k; c += VL) transform_input<VL>(from + c, w.x_row, w.x_pixel, to + c, plane);
#if VL == 16
        if (c < k) transform_input<8>(from + c, w.x_row, w.x_pixel, to + c, plane);
#endif
      }
      const int64_t matrix = panel_lanes(k) * k;
      for (int i = 0; i < 36; i++) multiply(v + i * plane, u + i * matrix, m + i * plane, k, rows);
      for (int64_t t = first; t < last; t++) {
        const int64_t n = t / tiles_per_image, ty = t % tiles_per_image / w.tiles_w, tx = t % w.tiles_w;
        const int rows_here = w.out_h - (int)ty * 4, columns_here = w.out_w - (int)tx * 4;
        const float* from = m + (t - first) * k;
        float* to = y + n * w.y_image + ty * 4 * w.y_row + tx * 4 * w.y_pixel;
        float* const sums = pool ? pool + (n - first_image) * channels + (int64_t)group * k : nullptr;
        int c = 0;
        for (; c + VL <= k; c += VL)
          transform_output<VL>(from + c, plane, load(bias + c), w, to + c, rows_here, columns_here, sums ? sums + c : nullptr);
#if VL == 16
        if (c < k)
          transform_output<8>(from + c, plane, load_lanes<8>(bias + c), w, to + c, rows_here, columns_here, sums ? sums + c : nullptr);
#endif
      }
    }
  }
}
