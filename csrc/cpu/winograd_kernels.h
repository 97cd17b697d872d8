// Winograd F(4x4, 3x3) on NHWC maps, computed in float32: the products between the transforms (winograd_transforms.h). Included by
// kernels.cpp alone.

constexpr int kMostTiles = 64;  // of a block

// Lines that are brought into L2 for later, some after each tile of products: what the phase after needs; at stride 2 the next weights, too.
struct Ahead {
  const char *at, *end;
  int lines;  // a tile
  Ahead(const char* from, int64_t bytes, int64_t tiles) : at(from), end(from + bytes), lines((int)((bytes / 64 + tiles) / (tiles + 1))) {}
  REGNET_INLINE void fetch() {
    const char* const stop = at + 64 * lines < end ? at + 64 * lines : end;
    for (; at < stop; at += 64) fetch_ahead(at);
  }
};

// The weights that are transformed next: a piece for each tile of products, until they are all on the way to L2. (A whole group's, 1 MB at
// width 120, threw themselves out of L2 before they were used; fetched in bursts between tiles they cost the products 3 to 8 %.)
struct Coming {
  const char *at, *end;
  REGNET_INLINE const char* next(int64_t bytes, const void* hot) {
    if (at >= end) return (const char*)hot;  // a line that is there
    const char* const from = at;
    at += bytes;
    return from;
  }
};

// One position of the weights of a set of panels: the full ones, `panel` words apart, and the half one.
struct SetWeights {
  const uint32_t *full, *half;
  int64_t panel;
};

// Rows of V and M, floats apart; steps, an even number; what is fetched meanwhile, a line every two steps.
struct TileRows {
  int64_t v, m, steps;
  const char* ahead;
};

// P rows of V times one tile-wide set of panels -> P rows of M. Fold: the panels are of 8 outputs, two sums each.
template <class Dot, bool Fold, int P, int F, int H>
__attribute__((noinline)) void multiply_tile(const float* v, const SetWeights& weights, float* m, const TileRows& rows) {
  constexpr int V = vectors(F, H), W = kWords<Dot>;
  vf acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 16
    for (int i = 0; i < V; i++) acc[p][i] = vf{};
  const uint32_t* xp[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) xp[p] = (const uint32_t*)v + p * rows.v;
  const int64_t panel = weights.panel, end = rows.steps * W;
  const uint32_t *u = weights.full, *half = weights.half;
  const char* ahead = rows.ahead;
  for (int64_t at = 0; at < end; at += 2 * W) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      step<Dot, P, F, H>(acc, xp, at + i * W, u, half, panel);
      if constexpr (F != 0) u += 16;
      if constexpr (H != 0) half += 8;
      asm volatile("" ::: "memory");  // else g++ 12 loads both steps' weights at once
    }
    fetch_ahead(ahead);
    ahead += 64;
  }
  const int64_t row = rows.m;
  if constexpr (Fold) {
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int i = 0; i < V; i += 2)
        store_vector<F / 2, F % 2>(m + p * row, i / 2, fold_pairs(acc[p][i], i + 1 < V ? acc[p][i + 1] : vf{}));
  } else {
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int i = 0; i < V; i++) store_vector<F, H>(m + p * row, i, acc[p][i]);
  }
}

template <class Dot, bool Fold, int P, int F, int H>
REGNET_INLINE void dispatch_multiply(const float* v, const SetWeights& u, float* m, const TileRows& rows, int here) {
  if constexpr (P > 1) {
    if (here < P) return dispatch_multiply<Dot, Fold, P - 1, F, H>(v, u, m, rows, here);
  }
  multiply_tile<Dot, Fold, P, F, H>(v, u, m, rows);
}

// A block of tiles: in the order short rows, none, short columns, both, so that those that have a position are neighbours.
struct TileAt {
  int64_t x, y, sums;  // offsets
  int rows, columns;   // outputs that exist
};
struct TileBlock {
  TileAt at[kMostTiles];
  int end[4];  // of the tiles of each kind

  // Those of the position (i, j), in the order of memory: [begin, end).
  int begin(int i) const { return i >= 4 ? end[0] : 0; }
  int stop(int i, int j) const { return j >= 4 ? end[1] : i >= 4 ? end[2] : end[3]; }
};

// What the products of a set of panels need, beside V, U and M.
struct Products {
  const float* taps;                // of the set's first panel
  int64_t tap, panel;               // words of a full panel: one tap, nine
  int64_t plane, u_plane, m_plane;  // of V, U and M
  int64_t row, m_row, steps;
  const TileBlock* tiles;
  Ahead* ahead;
  Coming coming;
};

// M (rows, lanes of a set) = V (rows, steps x words) x U (steps, lanes), for the positions of `lines` lines from `line` on
template <class Dot, bool Fold, int F, int H>
void multiply_rows(Products& g, int line, int lines, const float* v, const float* u, float* m) {
  constexpr int P = pixels<Dot>(F, H);
  for (int i = line; i < line + lines; i++)
    for (int j = 0; j < 6; j++, v += g.plane, u += g.u_plane, m += g.m_plane) {
      SetWeights weights{(const uint32_t*)u, (const uint32_t*)u + F * g.tap, g.tap};
      if (i < 2 && j < 2) {  // a tap as it is: 0, 2, 6 or 8
        const int64_t tap = 6 * i + 2 * j;
        weights = {(const uint32_t*)g.taps + tap * g.tap, (const uint32_t*)g.taps + F * g.panel + tap * (g.tap / 2), g.panel};
      }
      const int first = g.tiles->begin(i), rows = g.tiles->stop(i, j) - first;
      const int tiles = (rows + P - 1) / P;
      int64_t at = first;
      for (int t = 0; t < tiles; t++) {
        const int here = rows / tiles + (t < rows % tiles);
        const TileRows those{g.row, g.m_row, g.steps, g.coming.next(g.steps * 32, u)};
        dispatch_multiply<Dot, Fold, P, F, H>(v + at * g.row, weights, m + at * g.m_row, those, here);
        g.ahead[0].fetch();
        g.ahead[1].fetch();
        at += here;
      }
    }
}

template <class Dot, bool Fold>
REGNET_INLINE void multiply(int full, int half, Products& g, int line, int lines, const float* v, const float* u, float* m) {
  constexpr bool kHalves = kWords<Dot> == 1;
  switch (full * 2 + half) {
    case 1:
      if constexpr (kHalves) return multiply_rows<Dot, Fold, 0, 1>(g, line, lines, v, u, m);
      __builtin_trap();
    case 2: return multiply_rows<Dot, Fold, 1, 0>(g, line, lines, v, u, m);
#if VL >= 8
    case 3:
      if constexpr (kHalves) return multiply_rows<Dot, Fold, 1, 1>(g, line, lines, v, u, m);
      __builtin_trap();
#endif
#if VL == 16
    case 4: return multiply_rows<Dot, Fold, 2, 0>(g, line, lines, v, u, m);
    case 5:
      if constexpr (kHalves) return multiply_rows<Dot, Fold, 2, 1>(g, line, lines, v, u, m);
      __builtin_trap();
    case 6: return multiply_rows<Dot, Fold, 3, 0>(g, line, lines, v, u, m);
#endif
    default: __builtin_trap();
  }
}

// Tiles [first, last) of the maps -> block; sums are counted from those of `first_image`.
void find_tiles(const Winograd& w, int64_t first, int64_t last, int64_t first_image, TileBlock& block) {
  const int64_t each = (int64_t)w.tiles_h * w.tiles_w;
  const auto kind = [&](int64_t ty, int64_t tx) {
    const bool row = w.out_h - ty * 4 <= 2, column = w.out_w - tx * 4 <= 2;
    return column ? 2 + row : 1 - row;
  };
  int size[4] = {};
  int64_t n = first / each, ty = first % each / w.tiles_w, tx = first % w.tiles_w;
  const auto next = [&] {
    if (++tx == w.tiles_w) {
      tx = 0;
      if (++ty == w.tiles_h) ty = 0, n++;
    }
  };
  for (int64_t t = first; t < last; t++, next()) size[kind(ty, tx)]++;
  int at[4];
  for (int i = 0, sum = 0; i < 4; i++) at[i] = sum, sum += size[i], block.end[i] = sum;
  n = first / each, ty = first % each / w.tiles_w, tx = first % w.tiles_w;
  for (int64_t t = first; t < last; t++, next()) {
    const int64_t rows = w.out_h - ty * 4, columns = w.out_w - tx * 4;
    block.at[at[kind(ty, tx)]++] = {n * w.x_image + ty * 4 * w.x_row + tx * 4 * w.x_pixel, n * w.y_image + ty * 4 * w.y_row + tx * 4 * w.y_pixel,
                                    (n - first_image) * w.pool_stride, rows < 4 ? (int)rows : 4, columns < 4 ? (int)columns : 4};
  }
}

// Channels [lane, lane + lanes) of the tiles back; `m` is of these.
void return_tiles(const TileBlock& tiles, TileOut out, const float* m, int64_t plane, int64_t row, int lane, int lanes, const float* bias,
                  float* y, float* pool) {
  for (int t = 0; t < tiles.end[3]; t++, m += row) {
    const TileAt& at = tiles.at[t];
    out.rows = at.rows, out.columns = at.columns;
    float *const to = y + at.y + lane, *const sums = pool ? pool + at.sums + lane : nullptr;
    if (t < tiles.end[0]) transform_output<true, false>(m, plane, lanes, bias + lane, out, to, sums);
    else if (t < tiles.end[1]) transform_output<false, false>(m, plane, lanes, bias + lane, out, to, sums);
    else if (t < tiles.end[2]) transform_output<false, true>(m, plane, lanes, bias + lane, out, to, sums);
    else transform_output<true, true>(m, plane, lanes, bias + lane, out, to, sums);
  }
}

// The weights' transform is made here, for a set of panels at a time, just before its products: stored ahead it would be four times the
// plain weights, from memory at batch 1. All 36 positions of a set come before the next set: its taps are read once, and M is of one
// set, so that V stays in L2 beside it. Against 12 positions through all sets, which read the weights three times, two threads, batch 1:
// width 120 at 14x14 1.16 to 1.17 times as fast, width 56 1.08. Many tiles of groups whose weights stay in L2 keep that order
// (winograd_in_pairs): widths 56 and 80 at 56x56 lost 4 to 11 % by the other.
template <class Dot, bool Fold>
void winograd_of(const Winograd& w, const WinogradTask& task, float* scratch) {
  const int lanes = w.lanes();
  const int64_t steps = Fold ? w.group_width / 2 : w.group_width, most = winograd_block(lanes, w.group_width);
  const int panels = Fold ? w.group_width / kPairPanel : (int)panel_count(lanes), half_tail = !Fold && lanes % kPanel != 0;
  const int64_t area = (int64_t)w.tiles_h * w.tiles_w, first_image = task.tile0 / area;
  const int64_t images = task.tile1 > task.tile0 ? (task.tile1 - 1) / area - first_image + 1 : 1;
  TileOut out{w.y_row, w.y_pixel, 0, 0, w.activation == Activation::relu ? 0.0f : -__builtin_inff(), w.activation == Activation::silu};
  const int64_t of_task = 36 * (task.tile1 - task.tile0) * panels / (3 * pixels<Dot>(3, 0)) * (task.group1 - task.group0);  // about
  Ahead ahead[2] = {{task.next[0], task.next_bytes, of_task}, {task.next[1], task.next_bytes, of_task}};
  float *const u = scratch, *const planes = u + winograd_weight_words(w.group_width);
  TileBlock tiles;
  Products g{nullptr, steps * kPanel, 9 * steps * kPanel, 0, 0, 0, lanes, lanes, steps, &tiles, ahead, {nullptr, nullptr}};
  for (int group = task.group0; group < task.group1; group++) {
    const float* const x = w.x + (int64_t)group * lanes;
    const float* const weights = (const float*)w.w + group * w.w_group;
    float* const y = w.y + (int64_t)group * lanes;
    const float* const bias = w.bias + (int64_t)group * lanes;
    bool made = false;
    for (int64_t run = 0; run < task.parts; run++) {
      const int64_t all = task.tile1 - task.tile0, tile0 = task.tile0 + all * run / task.parts, tile1 = task.tile0 + all * (run + 1) / task.parts;
      float* const pool = w.pool ? w.pool + (task.pool_slot + run) * w.pool_stride + (int64_t)group * lanes : nullptr;
      if (pool)
        for (int64_t n = 0; n < images; n++)
          for (int64_t c = 0; c < lanes; c++) pool[n * w.pool_stride + c] = 0;
      const int64_t count = tile1 - tile0, blocks = (count + most - 1) / most;
      for (int64_t b = 0; b < blocks; b++) {
        find_tiles(w, tile0 + count * b / blocks, tile0 + count * (b + 1) / blocks, first_image, tiles);
        const bool in_pairs = winograd_in_pairs(lanes, w.group_width, tiles.end[3]);  // never where a group is one set (`made`)
        // an odd number of cache lines: 36 planes a power of two apart would all fall into two sets of L1
        const auto odd_lines = [](int64_t words) { return ((words + 15) / 16 | 1) * 16; };
        g.plane = odd_lines(tiles.end[3] * lanes);
        // in pairs, 12 planes of M take the place of those of V before them
        float *const v = in_pairs ? planes + 12 * g.plane : planes, *const m = in_pairs ? planes : v + 36 * g.plane;
        for (int t = 0; t < tiles.end[3]; t++) {
          const float* const from = x + tiles.at[t].x;
          float* const to = v + (int64_t)t * lanes;
          if (t < tiles.end[0]) transform_input<true, false>(from, w.x_row, w.x_pixel, lanes, to, g.plane);
          else if (t < tiles.end[1]) transform_input<false, false>(from, w.x_row, w.x_pixel, lanes, to, g.plane);
          else if (t < tiles.end[2]) transform_input<false, true>(from, w.x_row, w.x_pixel, lanes, to, g.plane);
          else transform_input<true, true>(from, w.x_row, w.x_pixel, lanes, to, g.plane);
        }
        const int lines = in_pairs ? 2 : 6;
        for (int line = 0; line < 6; line += lines)
          for (int panel = 0, lane = 0; panel < panels;) {
            int half = half_tail, full = panels - panel - half;
            next_set(full, half);
            const int here = full + half, set_lanes = (full * kPanel + half * (kPanel / 2)) / (Fold ? 2 : 1);
            const int64_t words = here * g.tap - half * (g.tap / 2);
            g.taps = weights + panel * g.panel;
            g.m_row = in_pairs ? lanes : set_lanes, g.m_plane = in_pairs ? g.plane : odd_lines(tiles.end[3] * set_lanes);
            if (!made) {
              g.u_plane = odd_lines(words);
              for (int p = 0; p < here; p++)
                transform_weights(in_pairs ? line / 2 : -1, g.taps + p * g.panel, half && p == full ? g.tap / 2 : g.tap, u + p * g.tap, g.u_plane);
              const char* next = (const char*)(g.taps + 9 * words);  // the next set or group has about as many
              int64_t bytes = 36 * words;
              if (panel + here == panels) {
                const bool more_tiles = here < panels && (b + 1 < blocks || run + 1 < task.parts);
                if (line + lines < 6 || more_tiles) next = (const char*)weights;
                else if (task.then && group + 1 == task.group1) next = task.then, bytes = task.then_bytes;
              }
              g.coming = {next, next + bytes};
            }
            float* const m_set = m + 6 * line * g.m_plane + (in_pairs ? lane : 0);
            multiply<Dot, Fold>(full, half, g, line, lines, v + 6 * line * g.plane, u, m_set);
            made = here == panels && !in_pairs;
            if (!in_pairs) return_tiles(tiles, out, m, g.m_plane, set_lanes, lane, set_lanes, bias, y, pool);
            panel += here, lane += set_lanes;
          }
        if (in_pairs) return_tiles(tiles, out, m, g.m_plane, lanes, 0, lanes, bias, y, pool);
      }
    }
  }
}

void winograd(const Winograd& w, const WinogradTask& task, float* scratch) {
  if (w.together == 4) winograd_of<DotQuadF32, false>(w, task, scratch);
  else if (w.together == 2) winograd_of<DotPairF32, false>(w, task, scratch);
  else if (w.fold) winograd_of<DotPairF32, true>(w, task, scratch);
  else winograd_of<DotF32, false>(w, task, scratch);
}
