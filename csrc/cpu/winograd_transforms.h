// The transforms of Winograd's F(4x4, 3x3), channels in the vector, and of F(2, 3) for a last row or column of tiles of which at most two
// outputs are wanted (14 = 4 + 4 + 4 + 2): it has four of the six positions. Included by kernels.cpp alone.
//
// The interpolation points are 0, +-1/sqrt(2), +-sqrt(2) and infinity: with the usual 0, +-1, +-2 the error against float64
// is about 9 times a direct convolution's, with these 2.5 times (24 channels, random data), at the same number of operations.
// F(2, 3) takes 0, +-1/sqrt(2) and infinity, and the same weights. In memory the positions of a line are in the order 0, infinity,
// +-1/sqrt(2), +-sqrt(2), so that those that F(2, 3) has come first.
constexpr float kHalfRoot = 0.70710678118654752f, kRoot = 1.4142135623730951f;

// What g++ 12 must not know. Of an address: it computes the 36 of a tile ahead and spills them (150 -> 100 cycles for 16 channels of a
// tile). Of a product: it multiplies once more in each sum instead, which leaves the adders idle.
#if defined(__x86_64__) && (VL < 16 || defined(__AVX512F__))
#define REGNET_OPAQUE_ADDRESS(p) asm volatile("" : "+r"(p))
#define REGNET_OPAQUE_VECTOR(v) asm("" : "+v"(v))
#elif defined(__aarch64__)
#define REGNET_OPAQUE_ADDRESS(p) asm volatile("" : "+r"(p))
#define REGNET_OPAQUE_VECTOR(v) asm("" : "+w"(v))
#else  // vectors that the tests lower to narrower ones fit into no register
#define REGNET_OPAQUE_ADDRESS(p)
#define REGNET_OPAQUE_VECTOR(v)
#endif

// Of a line of tiles: outputs, and positions, which are as many as its inputs.
constexpr int outputs(bool is_short) { return is_short ? 2 : 4; }
constexpr int positions(bool is_short) { return is_short ? 4 : 6; }

// B^T d for one line. F(2, 3) is scaled to the weights of F(4, 3): by -2, -3/2 and 1.
REGNET_INLINE void input_line(const vf (&d)[6], vf (&out)[6]) {
  const vf h = broadcast(kHalfRoot), r = broadcast(kRoot), two = broadcast(2.0f), half = broadcast(0.5f), c = broadcast(2.5f);
  const vf even_a = d[4] - two * d[2], even_b = d[4] - half * d[2];
  vf odd_a = h * (d[3] - two * d[1]), odd_b = r * (d[3] - half * d[1]);
  REGNET_OPAQUE_VECTOR(odd_a);
  REGNET_OPAQUE_VECTOR(odd_b);
  out[0] = d[4] - c * d[2] + d[0];
  out[1] = d[5] - c * d[3] + d[1];
  out[2] = even_a + odd_a;
  out[3] = even_a - odd_a;
  out[4] = even_b + odd_b;
  out[5] = even_b - odd_b;
}
REGNET_INLINE void input_line(const vf (&d)[4], vf (&out)[4]) {
  const vf even = broadcast(-1.5f) * d[2];
  vf odd = broadcast(-1.5f * kHalfRoot) * d[1];
  REGNET_OPAQUE_VECTOR(odd);
  out[0] = d[0] - broadcast(2.0f) * d[2];
  out[1] = d[3] - broadcast(0.5f) * d[1];
  out[2] = even + odd;
  out[3] = even - odd;
}

// A^T m for one line
REGNET_INLINE void output_line(const vf (&m)[6], vf (&out)[4]) {
  const vf sum_a = m[2] + m[3], diff_a = broadcast(kHalfRoot) * (m[2] - m[3]);
  const vf sum_b = m[4] + m[5], diff_b = broadcast(kRoot) * (m[4] - m[5]);
  out[0] = m[0] + sum_a + sum_b;
  out[1] = diff_a + diff_b;
  out[2] = broadcast(0.5f) * sum_a + broadcast(2.0f) * sum_b;
  out[3] = m[1] + broadcast(0.5f) * diff_a + broadcast(2.0f) * diff_b;
}
REGNET_INLINE void output_line(const vf (&m)[4], vf (&out)[2]) {
  out[0] = m[0] + (m[2] + m[3]);
  out[1] = m[1] + broadcast(kHalfRoot) * (m[2] - m[3]);
}

// A line of positions of V, `plane` floats apart. Returns where the next line begins, 6 planes on.
template <int LANES, int N>
REGNET_INLINE float* store_line(const vf (&t)[N], float* v, int64_t plane) {
  vf out[N];
  input_line(t, out);
#pragma GCC unroll 6
  for (int j = 0; j < N; j++) {
    store_lanes<LANES>(v, out[j]);
    v += plane;
    REGNET_OPAQUE_ADDRESS(v);
  }
  return v + (6 - N) * plane;
}

// One row of B^T d from the pixels of a column: the row of 0 from d, that of infinity from d + row.
template <int LANES, bool Short>
REGNET_INLINE vf outer_row(const float* d, int64_t row, bool infinity) {
  if constexpr (Short) return infinity ? load_lanes<LANES>(d + 2 * row) - broadcast(0.5f) * load_lanes<LANES>(d)
                                       : load_lanes<LANES>(d) - broadcast(2.0f) * load_lanes<LANES>(d + 2 * row);
  return load_lanes<LANES>(d + 4 * row) - broadcast(2.5f) * load_lanes<LANES>(d + 2 * row) + load_lanes<LANES>(d);
}

// LANES channels of one tile: 6x6 pixels of x -> 36 vectors, `plane` floats apart; 4 rows or columns where the tile is short. The rows of
// B^T d are made from the image's again and again (84 loads for 36): 36 vectors do not fit into 32 registers, and spilling them would
// double the stores, of which a core makes one a cycle (125 -> 100 cycles).
template <int LANES, bool ShortRow, bool ShortColumn>
REGNET_INLINE void transform_lanes(const float* x, int64_t row, int64_t pixel, float* v, int64_t plane) {
  constexpr int N = positions(ShortColumn);
  const int64_t row3 = 3 * row;
  vf a[N], b[N];
#pragma GCC unroll 2
  for (int infinity = 0; infinity < 2; infinity++) {
    const float* d = x + infinity * row;
#pragma GCC unroll 6
    for (int j = 0; j < N; j++) {
      a[j] = outer_row<LANES, ShortRow>(d, row, infinity);
      d += pixel;
      REGNET_OPAQUE_ADDRESS(d);
    }
    v = store_line<LANES>(a, v, plane);
  }
#pragma GCC unroll 2
  for (int pair = 0; pair < (ShortRow ? 1 : 2); pair++) {  // of points: +-1/sqrt(2), +-sqrt(2)
    const vf inner = broadcast(pair ? 0.5f : 2.0f), outer = broadcast(pair ? kRoot : kHalfRoot);
    const float* d = x;
#pragma GCC unroll 6
    for (int j = 0; j < N; j++) {
      vf even, odd;
      if constexpr (ShortRow) {
        even = broadcast(-1.5f) * load_lanes<LANES>(d + 2 * row);
        odd = broadcast(-1.5f * kHalfRoot) * load_lanes<LANES>(d + row);
      } else {
        even = load_lanes<LANES>(d + 4 * row) - inner * load_lanes<LANES>(d + 2 * row);
        odd = outer * (load_lanes<LANES>(d + row3) - inner * load_lanes<LANES>(d + row));
      }
      REGNET_OPAQUE_VECTOR(odd);
      a[j] = even + odd, b[j] = even - odd;
      d += pixel;
      REGNET_OPAQUE_ADDRESS(d);
    }
    v = store_line<LANES>(a, v, plane);
    v = store_line<LANES>(b, v, plane);
  }
}

template <bool ShortRow, bool ShortColumn>
__attribute__((noinline)) void transform_input(const float* x, int64_t row, int64_t pixel, int channels, float* v, int64_t plane) {
  int c = 0;
  for (; c + VL <= channels; c += VL) transform_lanes<VL, ShortRow, ShortColumn>(x + c, row, pixel, v + c, plane);
#if VL == 16
  if (c < channels) transform_lanes<8, ShortRow, ShortColumn>(x + c, row, pixel, v + c, plane);
#endif
}

// G is ((1, 0, 0), (e, +-e p, e p^2) for the points +-p, (0, 0, 1)), e = -2/3 for p^2 = 1/2 and 1/6 for p^2 = 2.
constexpr float kNear = -2.0f / 3, kNear2 = -1.0f / 3, kNear1 = -0.47140452079103168f, kFar = 1.0f / 6, kFar2 = 1.0f / 3, kFar1 = 0.23570226039551584f;

// Outer: t are taps of the weights, and so are the positions 0 and infinity, which are read where they are.
template <bool Outer>
REGNET_INLINE void weight_line(const vf (&t)[3], float* u, int64_t plane) {
  const vf near = broadcast(kNear) * t[0] + broadcast(kNear2) * t[2], far = broadcast(kFar) * t[0] + broadcast(kFar2) * t[2];
  vf near_odd = broadcast(kNear1) * t[1], far_odd = broadcast(kFar1) * t[1];
  REGNET_OPAQUE_VECTOR(near_odd);
  REGNET_OPAQUE_VECTOR(far_odd);
  if constexpr (!Outer) {
    store(u, t[0]);
    store(u + plane, t[2]);
  }
  store(u + 2 * plane, near + near_odd);
  u += 3 * plane;
  REGNET_OPAQUE_ADDRESS(u);
  store(u, near - near_odd);
  store(u + plane, far + far_odd);
  store(u + 2 * plane, far - far_odd);
}

// Two rows of U = G w G^T of `words` weights of a panel, element by element, so that a panel of U lies as one of w does.
template <int Pair>
REGNET_INLINE void weight_pair(const float* w, int64_t tap, float* u, int64_t plane) {
  vf a[3], b[3];
#pragma GCC unroll 3
  for (int j = 0; j < 3; j++) {
    const vf up = load(w + j * tap), down = load(w + (j + 6) * tap);
    if constexpr (Pair == 0) {
      a[j] = up, b[j] = down;
    } else {
      const vf even = broadcast(Pair == 1 ? kNear : kFar) * up + broadcast(Pair == 1 ? kNear2 : kFar2) * down;
      vf odd = broadcast(Pair == 1 ? kNear1 : kFar1) * load(w + (j + 3) * tap);
      REGNET_OPAQUE_VECTOR(odd);
      a[j] = even + odd, b[j] = even - odd;
    }
  }
  weight_line<Pair == 0>(a, u, plane);
  u += 6 * plane;
  REGNET_OPAQUE_ADDRESS(u);
  weight_line<Pair == 0>(b, u, plane);
}

// pair < 0: all three. The taps' lines are then read once: 2.5 cycles a line of U through L2, 3.5 by single rows of positions.
__attribute__((noinline)) void transform_weights(int pair, const float* w, int64_t words, float* u, int64_t plane) {
  if (pair < 0) {
    for (int64_t i = 0; i < words; i += VL) {
      float* to = u + i;
      weight_pair<0>(w + i, words, to, plane);
      to += 12 * plane;
      REGNET_OPAQUE_ADDRESS(to);
      weight_pair<1>(w + i, words, to, plane);
      to += 12 * plane;
      REGNET_OPAQUE_ADDRESS(to);
      weight_pair<2>(w + i, words, to, plane);
    }
    return;
  }
  if (pair == 0)
    for (int64_t i = 0; i < words; i += VL) weight_pair<0>(w + i, words, u + i, plane);
  else if (pair == 1)
    for (int64_t i = 0; i < words; i += VL) weight_pair<1>(w + i, words, u + i, plane);
  else
    for (int64_t i = 0; i < words; i += VL) weight_pair<2>(w + i, words, u + i, plane);
}

struct TileOut {
  int64_t row, pixel;  // of y
  int rows, columns;   // that exist, up to 4 x 4
  float floor;         // 0 for ReLU, else minus infinity
  bool silu;
};

// LANES channels of one tile back: bias, activation, and up to 4x4 pixels of y (fewer at the right and lower edge).
template <int LANES, bool ShortRow, bool ShortColumn>
REGNET_INLINE void return_lanes(const float* m, int64_t plane, vf bias, const TileOut& o, float* y, float* pool) {
  constexpr int N = positions(ShortColumn), kRows = outputs(ShortRow), kColumns = outputs(ShortColumn);
  vf t[kRows][N];
  const int64_t line = 6 * plane, line3 = 3 * line, line5 = 5 * line;
#pragma GCC unroll 6
  for (int j = 0; j < N; j++) {
    vf out[kRows];
    if constexpr (ShortRow) {
      const vf in[4] = {load_lanes<LANES>(m), load_lanes<LANES>(m + line), load_lanes<LANES>(m + 2 * line), load_lanes<LANES>(m + line3)};
      output_line(in, out);
    } else {
      const vf in[6] = {load_lanes<LANES>(m),         load_lanes<LANES>(m + line),     load_lanes<LANES>(m + 2 * line),
                        load_lanes<LANES>(m + line3), load_lanes<LANES>(m + 4 * line), load_lanes<LANES>(m + line5)};
      output_line(in, out);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kRows; i++) t[i][j] = out[i];
    m += plane;
    REGNET_OPAQUE_ADDRESS(m);
  }
  const vf floor = broadcast(o.floor);
  vf sum{};
#pragma GCC unroll 4
  for (int i = 0; i < kRows; i++) {
    if (i >= o.rows) break;
    vf out[kColumns];
    output_line(t[i], out);
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; j++) out[j] += bias;
    if (o.silu) {
      vf copy[kColumns];
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; j++) copy[j] = out[j];
      silu_all(copy, kColumns);
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; j++) out[j] = copy[j];
    }
    float* to = y + i * o.row;
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; j++) {
      if (j >= o.columns) break;
      const vf value = floor > out[j] ? floor : out[j];  // one max instruction; NaN stays NaN, as torch's
      sum += value;
      store_lanes<LANES>(to, value);
      to += o.pixel;
    }
  }
  if (pool) store_lanes<LANES>(pool, load_lanes<LANES>(pool) + sum);
}

template <bool ShortRow, bool ShortColumn>
__attribute__((noinline)) void transform_output(const float* m, int64_t plane, int lanes, const float* bias, const TileOut& o, float* y, float* pool) {
  int c = 0;
  for (; c + VL <= lanes; c += VL)
    return_lanes<VL, ShortRow, ShortColumn>(m + c, plane, load(bias + c), o, y + c, pool ? pool + c : nullptr);
#if VL == 16
  if (c < lanes) return_lanes<8, ShortRow, ShortColumn>(m + c, plane, load_lanes<8>(bias + c), o, y + c, pool ? pool + c : nullptr);
#endif
}
