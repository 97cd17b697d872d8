// Winograd F(4x4, 3x3) on NHWC maps, computed in float32, channels in the vector for both transforms. Included by kernels.cpp alone.
//
// The interpolation points are 0, +-1/sqrt(2), +-sqrt(2) and infinity: with the usual 0, +-1, +-2 the error against float64
// is about 9 times a direct convolution's, with these 2.5 times (24 channels, random data), at the same number of operations.
constexpr float kHalfRoot = 0.70710678118654752f, kRoot = 1.4142135623730951f;

// What g++ 12 must not know. Of an address: it computes the 36 of a tile ahead and spills them (150 -> 100 cycles for 16 channels of a
// tile). Of a product: it multiplies once more in each sum instead, which leaves the adders idle.
#if defined(__x86_64__)
#define REGNET_OPAQUE_ADDRESS(p) asm volatile("" : "+r"(p))
#define REGNET_OPAQUE_VECTOR(v) asm("" : "+v"(v))
#elif defined(__aarch64__)
#define REGNET_OPAQUE_ADDRESS(p) asm volatile("" : "+r"(p))
#define REGNET_OPAQUE_VECTOR(v) asm("" : "+w"(v))
#else
#define REGNET_OPAQUE_ADDRESS(p)
#define REGNET_OPAQUE_VECTOR(v)
#endif

// B^T d for one line of 6
REGNET_INLINE void input_line(const vf (&d)[6], vf (&out)[6]) {
  const vf h = broadcast(kHalfRoot), r = broadcast(kRoot), two = broadcast(2.0f), half = broadcast(0.5f), c = broadcast(2.5f);
  const vf even_a = d[4] - two * d[2], even_b = d[4] - half * d[2];
  vf odd_a = h * (d[3] - two * d[1]), odd_b = r * (d[3] - half * d[1]);
  REGNET_OPAQUE_VECTOR(odd_a);
  REGNET_OPAQUE_VECTOR(odd_b);
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

// Of interleaved groups a bfloat16 map holds pairs of channels, a0 a1 b0 b1, and the products here read a0 b0 a1 b1.
template <class X, int Together>
REGNET_INLINE vf one_by_one(vf v) {
  if constexpr (__is_same(X, float) || Together == 1) return v;
#if VL == 16
  if constexpr (Together == 2) return __builtin_shufflevector(v, v, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  if constexpr (Together == 4) return __builtin_shufflevector(v, v, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
#elif VL == 8
  if constexpr (Together == 2) return __builtin_shufflevector(v, v, 0, 2, 1, 3, 4, 6, 5, 7);
  if constexpr (Together == 4) return __builtin_shufflevector(v, v, 0, 2, 4, 6, 1, 3, 5, 7);
#endif
  return v;  // vectors of 4 lanes do not hold four groups: transform_input does it
}

// A line of six positions of V, `plane` floats apart. Returns where the next line begins.
template <class X, int Together, int LANES>
REGNET_INLINE float* store_line(const vf (&t)[6], float* v, int64_t plane) {
  vf out[6];
  input_line(t, out);
#pragma GCC unroll 6
  for (int j = 0; j < 6; j++) {
    store_lanes<LANES>(v, one_by_one<X, Together>(out[j]));
    v += plane;
    REGNET_OPAQUE_ADDRESS(v);
  }
  return v;
}

// LANES channels of one tile: 6x6 pixels of x -> 36 vectors, `plane` floats apart. The rows of B^T d are made from the image's again and
// again (84 loads for 36): 36 vectors do not fit into 32 registers, and spilling them would double the stores, of which a core
// makes one a cycle (125 -> 100 cycles).
template <class X, int Together, int LANES>
REGNET_INLINE void transform_lanes(const X* x, int64_t row, int64_t pixel, float* v, int64_t plane) {
  const int64_t row3 = 3 * row;
  const vf c = broadcast(2.5f);
  vf a[6], b[6];
  const X* d = x;
#pragma GCC unroll 6
  for (int j = 0; j < 6; j++) {
    a[j] = load_lanes<LANES>(d + 4 * row) - c * load_lanes<LANES>(d + 2 * row) + load_lanes<LANES>(d);
    d += pixel;
    REGNET_OPAQUE_ADDRESS(d);
  }
  v = store_line<X, Together, LANES>(a, v, plane);
#pragma GCC unroll 2
  for (int pair = 0; pair < 2; pair++) {  // of points: +-1/sqrt(2), +-sqrt(2)
    const vf inner = broadcast(pair ? 0.5f : 2.0f), outer = broadcast(pair ? kRoot : kHalfRoot);
    d = x;
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
      const vf even = load_lanes<LANES>(d + 4 * row) - inner * load_lanes<LANES>(d + 2 * row);
      vf odd = outer * (load_lanes<LANES>(d + row3) - inner * load_lanes<LANES>(d + row));
      REGNET_OPAQUE_VECTOR(odd);
      a[j] = even + odd, b[j] = even - odd;
      d += pixel;
      REGNET_OPAQUE_ADDRESS(d);
    }
    v = store_line<X, Together, LANES>(a, v, plane);
    v = store_line<X, Together, LANES>(b, v, plane);
  }
  d = x + row;
#pragma GCC unroll 6
  for (int j = 0; j < 6; j++) {
    a[j] = load_lanes<LANES>(d + 4 * row) - c * load_lanes<LANES>(d + 2 * row) + load_lanes<LANES>(d);
    d += pixel;
    REGNET_OPAQUE_ADDRESS(d);
  }
  store_line<X, Together, LANES>(a, v, plane);
}

template <class X, int Together>
REGNET_INLINE void transform_input(const X* x, int64_t row, int64_t pixel, int channels, float* v, int64_t plane) {
  int c = 0;
  for (; c + VL <= channels; c += VL) transform_lanes<X, Together, VL>(x + c, row, pixel, v + c, plane);
#if VL == 16
  if constexpr (Together == 1) {
    if (c < channels) transform_lanes<X, Together, 8>(x + c, row, pixel, v + c, plane);
  }
#elif VL == 4
  if constexpr (!__is_same(X, float) && Together > 1) {
    for (int i = 0; i < 36; i++)
      for (float* at = v + i * plane; at < v + i * plane + channels; at += 2 * Together) {
        float both[2 * Together];
        __builtin_memcpy(both, at, sizeof both);
        for (int g = 0; g < Together; g++) at[g] = both[2 * g], at[Together + g] = both[2 * g + 1];
      }
  }
#endif
}

struct TileOut {
  int64_t row, pixel;  // of y
  int rows, columns;   // that exist, up to 4 x 4
  float floor;         // 0 for ReLU, else minus infinity
  bool silu;
};

// LANES channels of one tile back: bias, activation, and up to 4x4 pixels of y (fewer at the right and lower edge).
template <class X, int LANES>
REGNET_INLINE void transform_output(const float* m, int64_t plane, vf bias, const TileOut& o, X* y, float* pool) {
  vf t[4][6];
  const int64_t line = 6 * plane, line3 = 3 * line, line5 = 5 * line;
#pragma GCC unroll 6
  for (int j = 0; j < 6; j++) {
    const vf in[6] = {load_lanes<LANES>(m), load_lanes<LANES>(m + line), load_lanes<LANES>(m + 2 * line),
                      load_lanes<LANES>(m + line3), load_lanes<LANES>(m + 4 * line), load_lanes<LANES>(m + line5)};
    vf out[4];
    output_line(in, out);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) t[i][j] = out[i];
    m += plane;
    REGNET_OPAQUE_ADDRESS(m);
  }
  const vf floor = broadcast(o.floor);
  vf sum{};
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    if (i >= o.rows) break;
    vf out[4];
    output_line(t[i], out);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) out[j] += bias;
    if (o.silu) {
      vf copy[4] = {out[0], out[1], out[2], out[3]};
      silu_all(copy, 4);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) out[j] = copy[j];
    }
    X* to = y + i * o.row;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      if (j >= o.columns) break;
      const vf value = floor > out[j] ? floor : out[j];  // one max instruction; NaN stays NaN, as torch's
      sum += value;
      store_lanes<LANES>(to, value);
      to += o.pixel;
    }
  }
  if (pool) store_lanes<LANES>(pool, load_lanes<LANES>(pool) + sum);
}

// How far ahead weights are fetched: they are many and on small maps each is used a few times, so they come from L3 or memory. At
// the end of a group the next one's follow.
constexpr int64_t kAheadWords = 4096;

// P rows of V times one tile-wide set of panels -> P rows of M, `row` floats apart as those of V. The first tile of rows fetches the
// weights that come later, a line of each panel a step; loops that did so every few steps ran at half of this one's speed.
template <class Dot, int P, int F, int H, bool Fetch>
__attribute__((noinline)) void multiply_tile(const float* v, const uint32_t* u, float* m, int64_t row, int k) {
  constexpr int V = vectors(F, H);
  vf acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 16
    for (int i = 0; i < V; i++) acc[p][i] = vf{};
  const uint32_t* xp[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) xp[p] = (const uint32_t*)v + p * row;
  const int64_t panel = (int64_t)16 * k, end = (int64_t)k * kWords<Dot>;
  const uint32_t* half = u + F * panel;
  // whole sets ahead, so that each line is fetched once, and early enough
  const int64_t set = (int64_t)(F * 16 + H * 8) * k, ahead = set > kAheadWords ? set : kAheadWords / set * set;
  for (int64_t at = 0; at < end; at += kWords<Dot>) {
    step<Dot, P, F, H>(acc, xp, at, u, half, panel);
    if constexpr (Fetch) {
#pragma GCC unroll 4
      for (int f = 0; f < F; f++) __builtin_prefetch(u + f * panel + ahead, 0, 2);
      if constexpr (H != 0) __builtin_prefetch(half + ahead, 0, 2);
    }
    if constexpr (F != 0) u += 16;
    if constexpr (H != 0) half += 8;
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 16
    for (int i = 0; i < V; i++) store_vector<F, H>(m + p * row, i, acc[p][i]);
}

template <class Dot, int P, int F, int H, bool Fetch>
REGNET_INLINE void dispatch_multiply(const float* v, const uint32_t* u, float* m, int64_t row, int k, int here) {
  if constexpr (P > 1) {
    if (here < P) return dispatch_multiply<Dot, P - 1, F, H, Fetch>(v, u, m, row, k, here);
  }
  multiply_tile<Dot, P, F, H, Fetch>(v, u, m, row, k);
}

template <class Dot, int F, int H>
void multiply_panels(const float* v, const uint32_t* u, float* m, int64_t row, int k, int rows) {
  constexpr int P = pixels<Dot>(F, H);
  const int tiles = (rows + P - 1) / P, base = rows / tiles, extra = rows % tiles;
  for (int i = 0; i < tiles; i++) {
    const int here = base + (i < extra);
    if (i == 0) dispatch_multiply<Dot, P, F, H, true>(v, u, m, row, k, here);
    else dispatch_multiply<Dot, P, F, H, false>(v, u, m, row, k, here);
    v += here * row, m += here * row;
  }
}

// M (rows, lanes) = V (rows, Together x k) x U (k, lanes), for one of the 36 positions
template <class Dot>
REGNET_INLINE void multiply(const float* v, const uint32_t* u, float* m, int64_t row, int k, int lanes, int rows) {
  constexpr bool kHalves = kWords<Dot> == 1;
  int full = lanes / 16;
  const int half = kHalves && lanes % 16 ? 1 : 0;
#if VL == 16
  for (; full > 4 || (full == 4 && half); full -= 3) {  // three at a time, and never three and one at the end
    multiply_panels<Dot, 3, 0>(v, u, m, row, k, rows);
    u += 48 * (int64_t)k, m += 48;
  }
  if (full == 4 || (full == 3 && half)) {
    multiply_panels<Dot, 2, 0>(v, u, m, row, k, rows);
    u += 32 * (int64_t)k, m += 32, full -= 2;
  }
#else
  while (full > kMaxFull || (full == kMaxFull && half && !kHalfJoins)) {
    multiply_panels<Dot, 1, 0>(v, u, m, row, k, rows);
    u += 16 * (int64_t)k, m += 16, full--;
  }
#endif
  switch (full * 2 + half) {
    case 1:
      if constexpr (kHalves) return multiply_panels<Dot, 0, 1>(v, u, m, row, k, rows);
      __builtin_trap();
    case 2: return multiply_panels<Dot, 1, 0>(v, u, m, row, k, rows);
#if VL >= 8
    case 3:
      if constexpr (kHalves) return multiply_panels<Dot, 1, 1>(v, u, m, row, k, rows);
      __builtin_trap();
#endif
#if VL == 16
    case 4: return multiply_panels<Dot, 2, 0>(v, u, m, row, k, rows);
    case 5:
      if constexpr (kHalves) return multiply_panels<Dot, 2, 1>(v, u, m, row, k, rows);
      __builtin_trap();
    case 6: return multiply_panels<Dot, 3, 0>(v, u, m, row, k, rows);
#endif
    default: __builtin_trap();
  }
}

// Walks over the tiles of a map, image after image.
struct TileWalk {
  const Winograd& w;
  int64_t n, ty, tx;
  TileWalk(const Winograd& w, int64_t tile) : w(w) {
    const int64_t each = (int64_t)w.tiles_h * w.tiles_w;
    n = tile / each, ty = tile % each / w.tiles_w, tx = tile % w.tiles_w;
  }
  void next() {
    if (++tx == w.tiles_w) {
      tx = 0;
      if (++ty == w.tiles_h) ty = 0, n++;
    }
  }
};

template <class X, class Dot>
void winograd_typed(const Winograd& w, const WinogradTask& task, float* scratch) {
  constexpr int kTogether = kWords<Dot>;
  const int k = w.group_width, lanes = k * kTogether;
  const int64_t block = winograd_block(lanes), matrix = panel_lanes(lanes) * k;
  const int64_t first_image = TileWalk(w, task.tile0).n;
  const int64_t images = task.tile1 > task.tile0 ? TileWalk(w, task.tile1 - 1).n - first_image + 1 : 1;
  float* const pool = w.pool ? w.pool + task.pool_slot * w.pool_stride : nullptr;
  if (pool)
    for (int64_t n = 0; n < images; n++)
      for (int64_t c = (int64_t)task.group0 * lanes; c < (int64_t)task.group1 * lanes; c++) pool[n * w.pool_stride + c] = 0;
  TileOut out{w.y_row, w.y_pixel, 0, 0, w.activation == Activation::relu ? 0.0f : -__builtin_inff(), w.activation == Activation::silu};
  const int64_t count = task.tile1 - task.tile0, blocks = (count + block - 1) / block;
  for (int group = task.group0; group < task.group1; group++) {
    const X* const x = (const X*)w.x + (int64_t)group * lanes;
    const uint32_t* const u = (const uint32_t*)w.u + group * 36 * matrix;
    X* const y = (X*)w.y + (int64_t)group * lanes;
    const float* const bias = w.bias + (int64_t)group * lanes;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t first = task.tile0 + count * b / blocks, last = task.tile0 + count * (b + 1) / blocks;
      const int rows = (int)(last - first);
      // an odd number of cache lines: 36 planes a power of two apart would all fall into two sets of L1
      const int64_t plane = (((int64_t)rows * lanes + 15) / 16 | 1) * 16;
      float *const v = scratch, *const m = scratch + 36 * plane;
      TileWalk at(w, first);
      for (int t = 0; t < rows; t++, at.next())
        transform_input<X, kTogether>(x + at.n * w.x_image + at.ty * 4 * w.x_row + at.tx * 4 * w.x_pixel, w.x_row, w.x_pixel, lanes,
                                      v + (int64_t)t * lanes, plane);
      for (int i = 0; i < 36; i++) multiply<Dot>(v + i * plane, u + i * matrix, m + i * plane, lanes, k, lanes, rows);
      TileWalk back(w, first);
      for (int t = 0; t < rows; t++, back.next()) {
        out.rows = w.out_h - (int)back.ty * 4, out.columns = w.out_w - (int)back.tx * 4;
        const float* from = m + (int64_t)t * lanes;
        X* const to = y + back.n * w.y_image + back.ty * 4 * w.y_row + back.tx * 4 * w.y_pixel;
        float* const sums = pool ? pool + (back.n - first_image) * w.pool_stride + (int64_t)group * lanes : nullptr;
        int c = 0;
        for (; c + VL <= lanes; c += VL) transform_output<X, VL>(from + c, plane, load(bias + c), out, to + c, sums ? sums + c : nullptr);
#if VL == 16
        if (kTogether == 1 && c < lanes)
          transform_output<X, 8>(from + c, plane, load_lanes<8>(bias + c), out, to + c, sums ? sums + c : nullptr);
#endif
      }
    }
  }
}

template <class X>
void winograd_of(const Winograd& w, const WinogradTask& task, float* scratch) {
  if (w.together == 4) winograd_typed<X, DotQuadF32>(w, task, scratch);
  else if (w.together == 2) winograd_typed<X, DotPairF32>(w, task, scratch);
  else winograd_typed<X, DotF32>(w, task, scratch);
}

void winograd(const Winograd& w, const WinogradTask& task, float* scratch) {
  w.type == Type::f32 ? winograd_of<float>(w, task, scratch) : winograd_of<uint16_t>(w, task, scratch);
}
