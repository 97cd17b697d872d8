// A 3x3 of stride 2 by Winograd's way: along a line, with the even pixels e and the odd ones o of the padded input,
//   y0 = w0 (e0 - e1) + w1 o0 + (w0 + w2) e1,   y1 = w2 (e2 - e1) + w1 o1 + (w0 + w2) e1.
// So the positions of a line are three sums of products, "first", "last" and "both", for two outputs: y0 = first + both, y1 = last + both,
// of two, two and one products. In two dimensions 25 products make 4 outputs in place of 36, in 9 sums of 4, 2 or 1 products, of which 9
// take pixels of the input as they are and 16 take differences (V). The 16 weights are the 9 taps and 7 sums of taps (U).
// A last output alone (an odd side) has no "last": three products of five. Included by kernels.cpp alone.

// The planes of V: differences along the rows (of "first", "last"), of each five columns: both differences, then the pixels e1, o0, o1
// of the line; then of the rows e1, o0, o1 the differences along the columns.
enum : int { kVFirst = 0, kVLast = 5, kVMiddle = 10, kVOdd = 12 };
constexpr int kStridedM = 5;  // planes of sums
static_assert(kStridedBlock <= kMostTiles);

// N pixels of a row, less those of another.
template <int LANES, int N>
REGNET_INLINE void subtract_row(const float* x, int64_t pixel, const vf (&less)[N], vf (&d)[N]) {
#pragma GCC unroll 5
  for (int j = 0; j < N; j++) {
    d[j] = load_lanes<LANES>(x) - less[j];
    x += pixel;
    REGNET_OPAQUE_ADDRESS(x);
  }
}

// Five planes of a row of differences. Returns where the next five begin.
template <int LANES, int N>
REGNET_INLINE float* store_differences(const vf (&d)[N], float* v, int64_t plane) {
  store_lanes<LANES>(v, d[0] - d[2]);
  v += plane;
  REGNET_OPAQUE_ADDRESS(v);
  if constexpr (N == 5) store_lanes<LANES>(v, d[4] - d[2]);
  v += plane;
  REGNET_OPAQUE_ADDRESS(v);
  store_lanes<LANES>(v, d[2]);
  v += plane;
  REGNET_OPAQUE_ADDRESS(v);
  store_lanes<LANES>(v, d[1]);
  v += plane;
  REGNET_OPAQUE_ADDRESS(v);
  if constexpr (N == 5) store_lanes<LANES>(v, d[3]);
  return v + plane;
}

// Two planes of a row of pixels as they are: a, b and c are those of e0, e1 and e2.
template <int LANES, int N>
REGNET_INLINE float* store_columns(vf a, vf b, vf c, float* v, int64_t plane) {
  store_lanes<LANES>(v, a - b);
  v += plane;
  REGNET_OPAQUE_ADDRESS(v);
  if constexpr (N == 5) store_lanes<LANES>(v, c - b);
  return v + plane;
}

// LANES channels of one tile: 5x5 pixels, 3 rows or columns where the tile is short.
template <int LANES, bool ShortRow, bool ShortColumn>
REGNET_INLINE void transform_strided_lanes(const float* x, int64_t row, int64_t pixel, float* v, int64_t plane) {
  constexpr int N = ShortColumn ? 3 : 5;
  vf middle[N], d[N];
  const float* from = x + 2 * row;
#pragma GCC unroll 5
  for (int j = 0; j < N; j++) {
    middle[j] = load_lanes<LANES>(from);
    from += pixel;
    REGNET_OPAQUE_ADDRESS(from);
  }
  subtract_row<LANES, N>(x, pixel, middle, d);
  v = store_differences<LANES, N>(d, v, plane);
  REGNET_OPAQUE_ADDRESS(v);
  if constexpr (!ShortRow) {
    subtract_row<LANES, N>(x + 4 * row, pixel, middle, d);
    store_differences<LANES, N>(d, v, plane);
  }
  v += 5 * plane;
  REGNET_OPAQUE_ADDRESS(v);
  v = store_columns<LANES, N>(middle[0], middle[2], middle[N - 1], v, plane);
  REGNET_OPAQUE_ADDRESS(v);
  x += row;
#pragma GCC unroll 2
  for (int i = 0; i < (ShortRow ? 1 : 2); i++) {
    v = store_columns<LANES, N>(load_lanes<LANES>(x), load_lanes<LANES>(x + 2 * pixel), load_lanes<LANES>(x + (N - 1) * pixel), v, plane);
    x += 2 * row;
    REGNET_OPAQUE_ADDRESS(v);
    REGNET_OPAQUE_ADDRESS(x);
  }
}

template <bool ShortRow, bool ShortColumn>
__attribute__((noinline)) void transform_strided_input(const float* x, int64_t row, int64_t pixel, int channels, float* v, int64_t plane) {
  int c = 0;
  for (; c + VL <= channels; c += VL) transform_strided_lanes<VL, ShortRow, ShortColumn>(x + c, row, pixel, v + c, plane);
#if VL == 16
  if (c < channels) transform_strided_lanes<8, ShortRow, ShortColumn>(x + c, row, pixel, v + c, plane);
#endif
}

// Nine taps of weights, `words` each -> the planes of U: with s for the sum of the taps 0 and 2, of (0, s), (1, s), (2, s), (s, s), (s, 0),
// (s, 1), (s, 2).
__attribute__((noinline)) void transform_strided_weights(const float* w, int64_t words, float* u, int64_t plane) {
  const int64_t words3 = 3 * words, plane3 = 3 * plane;
  for (int64_t i = 0; i < words; i += VL, w += VL, u += VL) {
    const float *const middle = w + words3, *const last = middle + words3;
    float* const rows = u + plane3;
    const vf a = load(w), b = load(w + 2 * words), c = load(last), d = load(last + 2 * words), first = a + b, second = c + d;
    store(u, first);
    store(u + plane, load(middle) + load(middle + 2 * words));
    store(u + 2 * plane, second);
    store(rows, first + second);
    store(rows + plane, a + c);
    store(rows + 2 * plane, load(w + words) + load(last + words));
    store(rows + plane3, b + d);
  }
}

// One term of a sum: of each tile `steps` words from x + offset[tile] on, and the weights: of full panels, `panel` words apart, and the
// half one.
struct StridedTerm {
  const uint32_t* x;
  const int64_t* offset;
  const uint32_t *full, *half;
  int64_t panel;
};
// One sum of a run of tiles.
struct StridedSum {
  StridedTerm terms[4];
  int count;
  int64_t steps;
  const float *first, *second;  // planes of M that are added, or null; the first of two is that of y
  float* m;                     // where the sum goes; or null: then it is an output
  int64_t row;                  // of M
  Tile out;                     // of the output: start (bias), y, y_offset, floor, silu, pool
};

// sums += what P tiles have in a plane of M
template <int P, int F, int H>
REGNET_INLINE void add_plane(vf (&sums)[P][vectors(F, H)], const float* m, int64_t row) {
  constexpr int V = vectors(F, H);
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) {
#pragma GCC unroll 16
    for (int i = 0; i < V; i++) sums[p][i] += load_vector<F, H>(m, i);
    m += row;
    REGNET_OPAQUE_ADDRESS(m);
  }
}

// P tiles from `first` on.
template <class Dot, bool Fold, int P, int F, int H>
__attribute__((noinline)) void strided_tile(const StridedSum& s, int64_t first) {
  constexpr int V = vectors(F, H), W = kWords<Dot>;
  vf acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 16
    for (int i = 0; i < V; i++) acc[p][i] = vf{};
  const int64_t end = s.steps * W;
  const StridedTerm *term = s.terms, *const stop = term + s.count;
  do {
    const uint32_t* xp[P];
    const int64_t* offset = term->offset + first;
    REGNET_OPAQUE_ADDRESS(offset);  // else g++ 12 keeps eight of them, in vector registers
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) xp[p] = term->x + offset[p];
    const int64_t panel = term->panel;
    const uint32_t *u = term->full, *half = term->half;
    for (int64_t at = 0; at < end; at += W) {
      step<Dot, P, F, H>(acc, xp, at, u, half, panel);
      if constexpr (F != 0) u += 16;
      if constexpr (H != 0) half += 8;
    }
  } while (++term != stop);
  constexpr int f = Fold ? F / 2 : F, h = Fold ? F % 2 : H, O = vectors(f, h);
  vf sums[P][O];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 16
    for (int i = 0; i < V; i += Fold ? 2 : 1) {
      if constexpr (Fold) sums[p][i / 2] = fold_pairs(acc[p][i], i + 1 < V ? acc[p][i + 1] : vf{});
      else sums[p][i] = acc[p][i];
    }
  if (s.first) add_plane<P, f, h>(sums, s.first + first * s.row, s.row);
  if (s.m) {
    float* to = s.m + first * s.row;
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) {
#pragma GCC unroll 16
      for (int i = 0; i < O; i++) store_vector<f, h>(to, i, sums[p][i]);
      to += s.row;
      REGNET_OPAQUE_ADDRESS(to);
    }
    return;
  }
  add_plane<P, f, h>(sums, s.second + first * s.row, s.row);
  add_plane<P, f, h>(sums, s.out.start, 0);
  finish_as<float, P, f, h>(sums, s.out, first);
}

template <class Dot, bool Fold, int P, int F, int H>
REGNET_INLINE void dispatch_strided(const StridedSum& s, int64_t first, int here) {
  if constexpr (P > 1) {
    if (here < P) return dispatch_strided<Dot, Fold, P - 1, F, H>(s, first, here);
  }
  strided_tile<Dot, Fold, P, F, H>(s, first);
}

// Tiles of a block, in the order short rows, none, short columns, both: those that have a position are neighbours.
struct StridedTiles {
  int64_t x[kMostTiles], y[kMostTiles], v[kMostTiles], sums[kMostTiles];  // offsets
  int end[4];
  int begin(bool last_row) const { return last_row ? end[0] : 0; }
  int stop(bool last_row, bool last_column) const { return last_column ? end[1] : last_row ? end[2] : end[3]; }
};

// An odd number of cache lines: planes a power of two apart would all fall into two sets of L1.
constexpr int64_t strided_plane(int64_t tiles, int64_t row) { return ((tiles * row + 15) / 16 | 1) * 16; }

// What the sums of a set of panels need.
struct StridedProducts {
  const float *x, *v, *u, *taps, *bias;
  float *m, *y;                // M: of this set alone
  int64_t x_row, x_pixel, y_row, y_pixel;
  int64_t plane, u_plane;      // of V, of U
  int64_t tap, panel;          // words of a full panel: one tap, nine
  int64_t steps;
  float floor;
  bool silu;
  const StridedTiles* tiles;
  Ahead* ahead;
};

template <class Dot, bool Fold, int F, int H>
void strided_sums(const StridedProducts& g) {
  constexpr int P = pixels<Dot>(F, H);
  const StridedTiles& tiles = *g.tiles;
  const int64_t m_row = (F * 16 + H * 8) / (Fold ? 2 : 1), m_plane = strided_plane(tiles.end[3], m_row);
  StridedSum s;
  s.steps = g.steps;
  s.row = m_row;
  s.out.residual = nullptr, s.out.y_type = Type::f32, s.out.floor = g.floor, s.out.silu = g.silu, s.out.start = g.bias;
  s.out.y_offset = tiles.y, s.out.pool = nullptr;
  const auto tap = [&](int i, StridedTerm& term) {
    term.full = (const uint32_t*)g.taps + i * g.tap, term.panel = g.panel;
    term.half = (const uint32_t*)g.taps + F * g.panel + i * (g.tap / 2);
  };
  const auto sum_of = [&](int i, StridedTerm& term) {
    term.full = (const uint32_t*)g.u + i * g.u_plane, term.half = term.full + F * g.tap, term.panel = g.tap;
  };
  const auto pixel = [&](int i, int j) {
    StridedTerm& term = s.terms[s.count++];
    term.x = (const uint32_t*)(g.x + i * g.x_row + j * g.x_pixel), term.offset = tiles.x;
    return &term;
  };
  const auto difference = [&](int plane) {
    StridedTerm& term = s.terms[s.count++];
    term.x = (const uint32_t*)(g.v + plane * g.plane), term.offset = tiles.v;
    return &term;
  };
  const auto run = [&](bool last_row, bool last_column) {
    const int begin = tiles.begin(last_row), rows = tiles.stop(last_row, last_column) - begin, count = (rows + P - 1) / P;
    int64_t at = begin;
    for (int t = 0; t < count; t++) {
      const int here = rows / count + (t < rows % count);
      dispatch_strided<Dot, Fold, P, F, H>(s, at, here);
      for (int i = 0; i < 3; i++) g.ahead[i].fetch();
      at += here;
    }
  };
  // both x both, then first and last x both, to which it is added, then both x first and last
  s.first = s.second = nullptr;
  s.m = g.m, s.count = 0;
  sum_of(3, *pixel(2, 2));
  run(false, false);
  s.first = g.m;
  for (int last = 0; last < 2; last++) {
    s.m = g.m + (1 + last) * m_plane, s.count = 0;
    sum_of(2 * last, *difference((last ? kVLast : kVFirst) + 2));
    sum_of(1, *pixel(1 + 2 * last, 2));
    run(last, false);
  }
  s.first = nullptr;
  for (int last = 0; last < 2; last++) {
    s.m = g.m + (3 + last) * m_plane, s.count = 0;
    sum_of(4 + 2 * last, *difference(kVMiddle + last));
    sum_of(5, *pixel(2, 1 + 2 * last));
    run(false, last);
  }
  s.m = nullptr;
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++) {
      s.first = g.m + (1 + i) * m_plane, s.second = g.m + (3 + j) * m_plane, s.count = 0;
      const int v = i ? kVLast : kVFirst;
      tap(6 * i + 2 * j, *difference(v + j));
      tap(6 * i + 1, *difference(v + 3 + j));
      tap(3 + 2 * j, *difference(kVOdd + 2 * i + j));
      tap(4, *pixel(1 + 2 * i, 1 + 2 * j));
      s.out.y = g.y + i * g.y_row + j * g.y_pixel;
      run(i, j);
    }
}

template <class Dot, bool Fold>
REGNET_INLINE void dispatch_strided_sums(int full, int half, const StridedProducts& g) {
  constexpr bool kHalves = kWords<Dot> == 1;
  switch (full * 2 + half) {
    case 1:
      if constexpr (kHalves) return strided_sums<Dot, Fold, 0, 1>(g);
      __builtin_trap();
    case 2: return strided_sums<Dot, Fold, 1, 0>(g);
#if VL >= 8
    case 3:
      if constexpr (kHalves) return strided_sums<Dot, Fold, 1, 1>(g);
      __builtin_trap();
#endif
#if VL == 16
    case 4: return strided_sums<Dot, Fold, 2, 0>(g);
    case 5:
      if constexpr (kHalves) return strided_sums<Dot, Fold, 2, 1>(g);
      __builtin_trap();
    case 6: return strided_sums<Dot, Fold, 3, 0>(g);
#endif
    default: __builtin_trap();
  }
}

// sums += the outputs of a tile
__attribute__((noinline)) void sum_strided_tile(const float* y, int64_t row, int64_t pixel, int rows, int columns, int lanes, float* sums) {
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++) {
      const float* const at = y + i * row + j * pixel;
      int c = 0;
      for (; c + VL <= lanes; c += VL) store(sums + c, load(sums + c) + load(at + c));
#if VL == 16
      if (c < lanes) store_lanes<8>(sums + c, load_lanes<8>(sums + c) + load_lanes<8>(at + c));
#endif
    }
}

// Tiles [first, last) of the maps.
void find_strided_tiles(const Winograd& w, int64_t first, int64_t last, int64_t first_image, int64_t row, StridedTiles& all) {
  const int64_t each = (int64_t)w.tiles_h * w.tiles_w;
  int64_t n, ty, tx;
  const auto each_tile = [&](const auto& visit) {
    n = first / each, ty = first % each / w.tiles_w, tx = first % w.tiles_w;
    for (int64_t t = first; t < last; t++) {
      const bool short_row = 2 * ty + 1 == w.out_h, short_column = 2 * tx + 1 == w.out_w;
      visit(short_column ? 2 + short_row : 1 - short_row);
      if (++tx == w.tiles_w) {
        tx = 0;
        if (++ty == w.tiles_h) ty = 0, n++;
      }
    }
  };
  int size[4] = {}, at[4];
  each_tile([&](int kind) { size[kind]++; });
  for (int i = 0, sum = 0; i < 4; i++) at[i] = sum, sum += size[i], all.end[i] = sum;
  each_tile([&](int kind) {
    const int i = at[kind]++;
    all.x[i] = n * w.x_image + 2 * (ty * w.x_row + tx * w.x_pixel), all.y[i] = n * w.y_image + 2 * (ty * w.y_row + tx * w.y_pixel);
    all.v[i] = i * row, all.sums[i] = (n - first_image) * w.pool_stride;
  });
}

// x_row and x_pixel: from output to output, as everywhere.
template <class Dot, bool Fold>
void winograd_strided_of(const Winograd& w, const WinogradTask& task, float* scratch) {
  const int lanes = w.lanes();
  const int64_t steps = Fold ? w.group_width / 2 : w.group_width;
  const int panels = Fold ? w.group_width / kPairPanel : (int)panel_count(lanes), half_tail = !Fold && lanes % kPanel != 0;
  const int64_t area = (int64_t)w.tiles_h * w.tiles_w, first_image = task.tile0 / area;
  const int64_t images = task.tile1 > task.tile0 ? (task.tile1 - 1) / area - first_image + 1 : 1;
  const int64_t products = 9 * (task.tile1 - task.tile0) * panels / (3 * pixels<Dot>(3, 0));  // about
  const int64_t of_task = products * (task.group1 - task.group0);
  Ahead ahead[3] = {{nullptr, 0, 0}, {task.next[0], task.next_bytes, of_task}, {task.next[1], task.next_bytes, of_task}};
  StridedTiles tiles;
  StridedProducts g{};
  g.x_row = w.x_row / 2, g.x_pixel = w.x_pixel / 2, g.y_row = w.y_row, g.y_pixel = w.y_pixel;
  g.tap = steps * kPanel, g.panel = 9 * steps * kPanel, g.steps = steps;
  g.floor = w.activation == Activation::relu ? 0.0f : -__builtin_inff(), g.silu = w.activation == Activation::silu;
  g.tiles = &tiles, g.ahead = ahead;
  float *const u = scratch, *const m = u + winograd_strided_weight_words(w.group_width);
  float* const v = m + kStridedM * strided_plane(kStridedBlock, 3 * kPanel);
  g.u = u, g.m = m, g.v = v;
  for (int group = task.group0; group < task.group1; group++) {
    const int64_t channel = (int64_t)group * lanes;
    const float* const weights = (const float*)w.w + group * w.w_group;
    g.x = w.x + channel;
    bool made = false;
    for (int64_t run = 0; run < task.parts; run++) {
      const int64_t all = task.tile1 - task.tile0, tile0 = task.tile0 + all * run / task.parts;
      const int64_t tile1 = task.tile0 + all * (run + 1) / task.parts;
      float* const pool = w.pool ? w.pool + (task.pool_slot + run) * w.pool_stride + channel : nullptr;
      if (pool)
        for (int64_t n = 0; n < images; n++)
          for (int64_t c = 0; c < lanes; c++) pool[n * w.pool_stride + c] = 0;
      const int64_t of_run = tile1 - tile0, blocks = (of_run + kStridedBlock - 1) / kStridedBlock;
      for (int64_t b = 0; b < blocks; b++) {
        find_strided_tiles(w, tile0 + of_run * b / blocks, tile0 + of_run * (b + 1) / blocks, first_image, lanes, tiles);
        const int count = tiles.end[3];
        g.plane = strided_plane(count, lanes);
        for (int t = 0; t < count; t++) {
          const float* const from = g.x + tiles.x[t];
          float* const to = v + tiles.v[t];
          if (t < tiles.end[0]) transform_strided_input<true, false>(from, g.x_row, g.x_pixel, lanes, to, g.plane);
          else if (t < tiles.end[1]) transform_strided_input<false, false>(from, g.x_row, g.x_pixel, lanes, to, g.plane);
          else if (t < tiles.end[2]) transform_strided_input<false, true>(from, g.x_row, g.x_pixel, lanes, to, g.plane);
          else transform_strided_input<true, true>(from, g.x_row, g.x_pixel, lanes, to, g.plane);
        }
        for (int panel = 0; panel < panels;) {
          int half = half_tail, full = panels - panel - half;
          next_set(full, half);
          const int here = full + half;
          g.taps = weights + panel * g.panel;
          g.u_plane = ((here * g.tap - half * (g.tap / 2)) / 16 | 1) * 16;
          if (!made)
            for (int p = 0; p < here; p++)
              transform_strided_weights(g.taps + p * g.panel, half && p == full ? g.tap / 2 : g.tap, u + p * g.tap, g.u_plane);
          made = here == panels;
          // the next set or group has about as many lines
          const int64_t bytes = 36 * (here * g.tap - half * (g.tap / 2)), begin = panel * g.panel;
          const bool other = task.then && group + 1 == task.group1 && panel + here == panels;
          ahead[0] = {other ? task.then : (const char*)(weights + begin) + bytes, other ? task.then_bytes : bytes, 9 * count / pixels<Dot>(3, 0) + 1};
          const int64_t lane = panel * (Fold ? kPairPanel : kPanel);
          g.y = w.y + channel + lane, g.bias = w.bias + channel + lane;
          dispatch_strided_sums<Dot, Fold>(full, half, g);
          panel += here;
        }
        if (pool)
          for (int t = 0; t < count; t++) {
            const int rows = t < tiles.end[0] || t >= tiles.end[2] ? 1 : 2, columns = t < tiles.end[1] ? 2 : 1;
            sum_strided_tile(w.y + channel + tiles.y[t], w.y_row, w.y_pixel, rows, columns, lanes, pool + tiles.sums[t]);
          }
      }
    }
  }
}

void winograd_of_stride(const Winograd& w, const WinogradTask& task, float* scratch) {
  if (w.stride != 2) winograd(w, task, scratch);
  else if (w.together == 4) winograd_strided_of<DotQuadF32, false>(w, task, scratch);
  else if (w.together == 2) winograd_strided_of<DotPairF32, false>(w, task, scratch);
  else if (w.fold) winograd_strided_of<DotPairF32, true>(w, task, scratch);
  else winograd_strided_of<DotF32, false>(w, task, scratch);
}
