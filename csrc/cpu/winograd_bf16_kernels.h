// Winograd F(2x2, 3x3) on bfloat16 NHWC maps, with the interpolation points 0, 1, -1 and infinity: the transforms are additions, in
// float32; the transformed input is rounded to bfloat16 and multiplied by the dot product of pairs, with float32 sums. Included by
// kernels.cpp alone, behind winograd_kernels.h.
//
// The words of V, pairs of neighbouring channels, lie as those of the map, so that one broadcast feeds interleaved groups here as well.

// B^T d for one column of 4 pixels, `row` apart
template <int LANES>
REGNET_INLINE void input_column(const uint16_t* x, int64_t row, vf (&out)[4]) {
  const vf d0 = load_lanes<LANES>(x), d1 = load_lanes<LANES>(x + row);
  const vf d2 = load_lanes<LANES>(x + 2 * row), d3 = load_lanes<LANES>(x + 3 * row);
  out[0] = d0 - d2;
  out[1] = d1 + d2;
  out[2] = d2 - d1;
  out[3] = d1 - d3;
}

// LANES channels of `tiles` tiles side by side: each 4x4 pixels of x -> 16 vectors, `plane` apart, and those of the next tile `next`
// further. Two columns are common to neighbours.
template <int LANES>
__attribute__((noinline)) void transform_bf16_input(const uint16_t* x, int64_t row, int64_t pixel, int tiles, uint16_t* v, int64_t next,
                                                    int64_t plane) {
  vf a[4], b[4];
  input_column<LANES>(x, row, a);
  input_column<LANES>(x + pixel, row, b);
  for (int t = 0; t < tiles; t++) {
    vf c[4], d[4];
    x += 2 * pixel;
    input_column<LANES>(x, row, c);
    input_column<LANES>(x + pixel, row, d);
    uint16_t* to = v;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const vf out[4] = {a[i] - c[i], b[i] + c[i], c[i] - b[i], b[i] - d[i]};
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        store_lanes<LANES>(to, out[j]);
        to += plane;
        REGNET_OPAQUE_ADDRESS(to);
      }
      a[i] = c[i], b[i] = d[i];
    }
    v += next;
  }
}

struct Tile2Out {
  int64_t row, pixel;  // of y
  int rows, columns;   // that exist, of all tiles of a run
  float floor;         // 0 for ReLU, else minus infinity
  bool silu;
};

// LANES channels of `tiles` tiles side by side back: bias, activation, and 2x2 pixels of y each (fewer at the right and lower edge).
template <int LANES>
__attribute__((noinline)) void transform_bf16_output(const float* m, int64_t next, int64_t plane, int tiles, vf bias, const Tile2Out& o,
                                                     uint16_t* y, float* pool) {
  const vf floor = broadcast(o.floor);
  vf sum{};
  for (int t = 0; t < tiles; t++) {
    vf top[4], bottom[4];
    const float* from = m;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      const vf m0 = load_lanes<LANES>(from), m2 = load_lanes<LANES>(from + 8 * plane), m3 = load_lanes<LANES>(from + 12 * plane);
      vf m1 = load_lanes<LANES>(from + 4 * plane);
      if (j == 1) m1 += bias;  // position (1, 1) is in all four outputs
      top[j] = m0 + (m1 + m2);
      bottom[j] = (m1 - m2) - m3;
      from += plane;
      REGNET_OPAQUE_ADDRESS(from);
    }
    vf out[4] = {top[0] + (top[1] + top[2]), (top[1] - top[2]) - top[3], bottom[0] + (bottom[1] + bottom[2]),
                 (bottom[1] - bottom[2]) - bottom[3]};
    if (o.silu) {
      vf copy[4] = {out[0], out[1], out[2], out[3]};
      silu_all(copy, 4);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) out[i] = copy[i];
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) out[i] = floor > out[i] ? floor : out[i];  // NaN stays NaN, as torch's
    const bool right = 2 * t + 1 < o.columns;
    store_lanes<LANES>(y, out[0]);
    sum += out[0];
    if (right) {
      store_lanes<LANES>(y + o.pixel, out[1]);
      sum += out[1];
    }
    if (o.rows > 1) {
      store_lanes<LANES>(y + o.row, out[2]);
      sum += out[2];
      if (right) {
        store_lanes<LANES>(y + o.row + o.pixel, out[3]);
        sum += out[3];
      }
    }
    m += next;
    y += 2 * o.pixel;
  }
  if (pool) store_lanes<LANES>(pool, load_lanes<LANES>(pool) + sum);
}

// How far ahead weights are fetched: each is used a few times, so they come from L3 or memory. At the end of a group the next one's follow.
constexpr int64_t kAheadWords = 4096;

// P rows of V, `v_row` words apart, times one tile-wide set of panels -> P rows of M, `m_row` floats apart. The first tile of rows
// fetches weights that come later: whole sets ahead, so that each line is fetched once, and early enough.
template <class Dot, int P, int F, int H, bool Fetch>
__attribute__((noinline)) void multiply_bf16_tile(const uint32_t* v, int64_t v_row, const uint32_t* u, float* m, int64_t m_row, int steps) {
  constexpr int V = vectors(F, H);
  vf acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 16
    for (int i = 0; i < V; i++) acc[p][i] = vf{};
  const uint32_t* xp[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) xp[p] = v + p * v_row;
  const int64_t panel = (int64_t)16 * steps, end = (int64_t)steps * kWords<Dot>;
  const uint32_t* half = u + F * panel;
  const int64_t set = (int64_t)(F * 16 + H * 8) * steps, ahead = set > kAheadWords ? set : kAheadWords / set * set;
  for (int64_t at = 0; at < end; at += kWords<Dot>) {
    step<Dot, P, F, H>(acc, xp, at, u, half, panel);
    if constexpr (Fetch) {
#pragma GCC unroll 4
      for (int f = 0; f < F; f++) fetch_ahead(u + f * panel + ahead);
      if constexpr (H != 0) fetch_ahead(half + ahead);
    }
    if constexpr (F != 0) u += 16;
    if constexpr (H != 0) half += 8;
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 16
    for (int i = 0; i < V; i++) store_vector<F, H>(m + p * m_row, i, acc[p][i]);
}

template <class Dot, int P, int F, int H, bool Fetch>
REGNET_INLINE void dispatch_multiply_bf16(const uint32_t* v, int64_t v_row, const uint32_t* u, float* m, int64_t m_row, int steps,
                                          int here) {
  if constexpr (P > 1) {
    if (here < P) return dispatch_multiply_bf16<Dot, P - 1, F, H, Fetch>(v, v_row, u, m, m_row, steps, here);
  }
  multiply_bf16_tile<Dot, P, F, H, Fetch>(v, v_row, u, m, m_row, steps);
}

template <class Dot, int F, int H>
void multiply_bf16_set(const uint32_t* v, int64_t v_row, const uint32_t* u, float* m, int64_t m_row, int steps, int rows) {
  constexpr int P = pixels<Dot>(F, H);
  const int tiles = (rows + P - 1) / P, base = rows / tiles, extra = rows % tiles;
  for (int i = 0; i < tiles; i++) {
    const int here = base + (i < extra);
    if (i == 0) dispatch_multiply_bf16<Dot, P, F, H, true>(v, v_row, u, m, m_row, steps, here);
    else dispatch_multiply_bf16<Dot, P, F, H, false>(v, v_row, u, m, m_row, steps, here);
    v += here * v_row, m += here * m_row;
  }
}

// M (rows, lanes) = V (rows, lanes / 2 words) x U, for one of the 16 positions: by sets of panels as wide as a tile, and never three and
// one at the end.
template <class Dot>
void multiply_bf16(const uint32_t* v, const uint32_t* u, float* m, int steps, int lanes, int rows) {
  constexpr bool kHalves = kWords<Dot> == 1;  // groups that go together fill whole panels
  const int64_t v_row = lanes / 2;
  int full = lanes / 16, half = kHalves ? lanes / 8 % 2 : 0;
  while (full + half > 0) {
    const int left = full + half, f = left <= kMaxFull ? full : left == kMaxFull + 1 && kMaxFull > 1 ? kMaxFull - 1 : kMaxFull;
    const int h = left <= kMaxFull ? half : 0;
    switch (f * 2 + h) {
      case 1:
        if constexpr (kHalves) multiply_bf16_set<Dot, 0, 1>(v, v_row, u, m, lanes, steps, rows);
        break;
      case 2: multiply_bf16_set<Dot, 1, 0>(v, v_row, u, m, lanes, steps, rows); break;
#if VL == 16
      case 3:
        if constexpr (kHalves) multiply_bf16_set<Dot, 1, 1>(v, v_row, u, m, lanes, steps, rows);
        break;
      case 4: multiply_bf16_set<Dot, 2, 0>(v, v_row, u, m, lanes, steps, rows); break;
      case 5:
        if constexpr (kHalves) multiply_bf16_set<Dot, 2, 1>(v, v_row, u, m, lanes, steps, rows);
        break;
      case 6: multiply_bf16_set<Dot, 3, 0>(v, v_row, u, m, lanes, steps, rows); break;
#endif
      default: __builtin_trap();
    }
    u += (int64_t)(f * 16 + h * 8) * steps, m += f * 16 + h * 8;
    full -= f, half -= h;
  }
}

// Runs of neighbouring tiles of a map, image after image.
struct TileRuns {
  const WinogradBf16& w;
  int64_t n, ty, tx;
  TileRuns(const WinogradBf16& w, int64_t tile) : w(w) {
    const int64_t each = (int64_t)w.tiles_h * w.tiles_w;
    n = tile / each, ty = tile % each / w.tiles_w, tx = tile % w.tiles_w;
  }
  // tiles of the run from here on, at most so many
  int size(int most) const { return w.tiles_w - tx < most ? (int)(w.tiles_w - tx) : most; }
  void skip(int tiles) {
    tx += tiles;
    if (tx < w.tiles_w) return;
    tx = 0;
    if (++ty == w.tiles_h) ty = 0, n++;
  }
};

template <class Dot>
void winograd_bf16_of(const WinogradBf16& w, const WinogradBf16Task& task, float* scratch) {
  const int steps = w.group_width / 2, lanes = w.lanes();
  const int64_t block = winograd_bf16_block(lanes), matrix = (int64_t)lanes * steps;
  const int64_t first_image = TileRuns(w, task.tile0).n;
  const int64_t images = task.tile1 > task.tile0 ? TileRuns(w, task.tile1 - 1).n - first_image + 1 : 1;
  float* const pool = w.pool ? w.pool + task.pool_slot * w.pool_stride : nullptr;
  if (pool)
    for (int64_t n = 0; n < images; n++)
      for (int64_t c = (int64_t)task.group0 * lanes; c < (int64_t)task.group1 * lanes; c++) pool[n * w.pool_stride + c] = 0;
  Tile2Out out{w.y_row, w.y_pixel, 0, 0, w.activation == Activation::relu ? 0.0f : -__builtin_inff(), w.activation == Activation::silu};
  const int64_t count = task.tile1 - task.tile0, blocks = (count + block - 1) / block;
  for (int group = task.group0; group < task.group1; group++) {
    const uint16_t* const x = w.x + (int64_t)group * lanes;
    const uint32_t* const u = w.u + group * 16 * matrix;
    uint16_t* const y = w.y + (int64_t)group * lanes;
    const float* const bias = w.bias + (int64_t)group * lanes;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t first = task.tile0 + count * b / blocks, last = task.tile0 + count * (b + 1) / blocks;
      const int rows = (int)(last - first);
      // an odd number of cache lines of V: 16 planes a power of two apart would fall into few sets of L1
      const int64_t plane = (((int64_t)rows * lanes + 31) / 32 | 1) * 32;
      float* const m = scratch;
      uint16_t* const v = (uint16_t*)(scratch + 16 * plane);
      int here;
      TileRuns at(w, first);
      for (int t = 0; t < rows; t += here, at.skip(here)) {
        here = at.size(rows - t);
        const uint16_t* const from = x + at.n * w.x_image + at.ty * 2 * w.x_row + at.tx * 2 * w.x_pixel;
        uint16_t* const to = v + (int64_t)t * lanes;
        int c = 0;
        for (; c + VL <= lanes; c += VL) transform_bf16_input<VL>(from + c, w.x_row, w.x_pixel, here, to + c, lanes, plane);
#if VL == 16
        if (kWords<Dot> == 1 && c < lanes) transform_bf16_input<8>(from + c, w.x_row, w.x_pixel, here, to + c, lanes, plane);
#endif
      }
      for (int i = 0; i < 16; i++) multiply_bf16<Dot>((const uint32_t*)(v + i * plane), u + i * matrix, m + i * plane, steps, lanes, rows);
      TileRuns back(w, first);
      for (int t = 0; t < rows; t += here, back.skip(here)) {
        here = back.size(rows - t);
        out.rows = w.out_h - (int)back.ty * 2, out.columns = w.out_w - (int)back.tx * 2;
        const float* const from = m + (int64_t)t * lanes;
        uint16_t* const to = y + back.n * w.y_image + back.ty * 2 * w.y_row + back.tx * 2 * w.y_pixel;
        float* const sums = pool ? pool + (back.n - first_image) * w.pool_stride + (int64_t)group * lanes : nullptr;
        int c = 0;
        for (; c + VL <= lanes; c += VL)
          transform_bf16_output<VL>(from + c, lanes, plane, here, load(bias + c), out, to + c, sums ? sums + c : nullptr);
#if VL == 16
        if (kWords<Dot> == 1 && c < lanes)
          transform_bf16_output<8>(from + c, lanes, plane, here, load_lanes<8>(bias + c), out, to + c, sums ? sums + c : nullptr);
#endif
      }
    }
  }
}

void winograd_bf16(const WinogradBf16& w, const WinogradBf16Task& task, float* scratch) {
  if (w.together == 4) winograd_bf16_of<DotQuadBf16>(w, task, scratch);
  else if (w.together == 2) winograd_bf16_of<DotPairBf16>(w, task, scratch);
  else winograd_bf16_of<DotBf16>(w, task, scratch);
}
