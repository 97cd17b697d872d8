// Narrow groups that go together (a panel or two of outputs), where the map's rows are whole runs of 7 or 8 pixels: a tile is one run or
// two, each a pointer, its fifth pixel's, and multiples of the pixels' distance, which cost no registers. So 14 pixels share a load of
// the weights, and a tap brings no new pointers. With vectors of 16 lanes. Included by kernels.cpp alone.
#if VL == 16

// A step's words of pixel p of a run, at an address that is one instruction's base + index * scale + k. a5: a + 5 distances.
template <class Dot>
REGNET_INLINE vf run_fetch(int p, const char* a, const char* a5, int64_t distance, int64_t three, int64_t k) {
  const int64_t offset = p == 0 || p == 5 ? 0 : p == 3 ? three : p == 6 ? three * 2 : p == 7 ? distance * 2 : distance * p;
  return Dot::fetch((const uint32_t*)((p == 5 || p == 7 ? a5 : a) + offset + k));
}

template <class Dot, int F, int FIRST, int RUN, int P>
REGNET_INLINE void run_step(vf (&acc)[P][F], const vu (&w)[F], const char* a, const char* a5, int64_t distance, int64_t three, int64_t k) {
#pragma GCC unroll 8
  for (int p = 0; p < RUN; p++) {
    const vf s = run_fetch<Dot>(p, a, a5, distance, three, k);
#pragma GCC unroll 2
    for (int v = 0; v < F; v++) dot_in_place<Dot>(acc[FIRST + p][v], s, w[v]);
  }
}

// `tiles` tiles of RUNS runs of RUN pixels. distance: bytes from pixel to pixel.
template <class Dot, int F, int RUNS, int RUN>
__attribute__((noinline)) void run_group(const Tile& t, int64_t tiles, int64_t distance) {
  constexpr int P = RUNS * RUN, kStep = kWords<Dot> * 4;
  int64_t three = distance * 3;
  asm("" : "+r"(distance), "+r"(three));
  const char* ahead = t.ahead;
  for (int64_t first = 0; first < tiles * P; first += P) {
    vf acc[P][F];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 2
      for (int v = 0; v < F; v++) acc[p][v] = vf{};
    const uint32_t* w = t.w;
    const int64_t panel_words = t.panel_words;
    const char* const at = (const char*)(t.x + t.x_offset[first]);
    const int64_t second = (const char*)(t.x + t.x_offset[first + P - RUN]) - at;
    for (int i = 0; i < t.tap_count; i++) {
      const char *a = at + t.taps[i] * 4, *a5 = a + distance * 4 + distance, *b = a + second, *b5 = a5 + second;
      for (int64_t k = 0; k < t.steps; k += 4) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
          vu words[F];
#pragma GCC unroll 2
          for (int v = 0; v < F; v++) words[v] = load_words(w + v * panel_words + j * 16);
          run_step<Dot, F, 0, RUN, P>(acc, words, a, a5, distance, three, j * kStep);
          if constexpr (RUNS == 2) run_step<Dot, F, P - RUN, RUN, P>(acc, words, b, b5, distance, three, j * kStep);
          // else g++ 12 computes each pixel's address ahead, and loads several steps' weights at once and spills accumulators
          asm volatile("" : "+r"(a), "+r"(a5), "+r"(b), "+r"(b5) : : "memory");
        }
        w += 64, a += 4 * kStep, a5 += 4 * kStep, b += 4 * kStep, b5 += 4 * kStep;
        fetch_ahead(ahead);
        fetch_ahead(ahead + 64);
        ahead += t.ahead_step;
      }
    }
    finish<P, F, 0>(acc, t, first);
  }
}

template <class Dot, int F, int RUN>
void run_group_panels(const PanelSet& s, const TaskPixels& px) {
  constexpr int kMost = RUN == 7 || F == 1 ? 2 : 1, P = kMost * RUN;  // as many runs as there are registers for
  const Conv& c = *s.conv;
  const float none[F * kPanel] = {};
  Blocks blocks(c);
  Block b;
  blocks.next(b);
  Tile t;
  t.panel_words = blocks.total() * kPanel;
  set_block<Dot, F>(t, s, b, false, F * kPanel);
  t.start = c.bias ? c.bias + s.channel : none;
  const int64_t tiles = px.count / P, last = px.count > tiles * P, distance = c.x_pixel * 4;
  t.ahead = (const char*)(s.w + blocks.total() * F * kPanel);
  t.ahead_step = F * kPanel * 4 * 4 / (tiles + last);  // the next set has as many lines as this one: a share of them with each tile
  t.x_offset = px.x_offset, t.y_offset = px.y_offset;
  run_group<Dot, F, kMost, RUN>(t, tiles, distance);
  if (!last) return;
  t.x_offset += tiles * P, t.y_offset += tiles * P;
  run_group<Dot, F, 1, RUN>(t, 1, distance);
}

// The length of runs in which the task can go, else 0.
REGNET_INLINE int64_t runs_of(const Conv& c, const ConvTask& task) {
  const int64_t run = run_pixels(c);
  const bool one_block = chain_parts((int64_t)c.taps * c.steps) == 1 && !c.steps2;
  return run > 1 && task.pixel0 % run == 0 && task.pixel1 % run == 0 && c.group_out % kPanel == 0 && c.steps % 4 == 0 && one_block ? run : 0;
}

template <class Dot, int F>
REGNET_INLINE bool run_whole_group(int64_t run, const PanelSet& s, const TaskPixels& px) {
  if (run == 7) return run_group_panels<Dot, F, 7>(s, px), true;
  if (run == 8) return run_group_panels<Dot, F, 8>(s, px), true;
  return false;
}
#endif
