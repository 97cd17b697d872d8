// Register tiles: P pixels x (F full panels of 16 + H half panels of 8) output channels, and one pass of them along the
// reduction axis. Included by kernels.cpp alone, inside an anonymous namespace.
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
  if (kIsBf16<Dot>) return full && half ? 2 : full ? 4 : 8;  // widening takes registers
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
    const vf s = Dot::fetch(xp[p] + k);
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) acc[p][v] = Dot::dot(acc[p][v], s, b[v]);
  }
}

// acc += x[first .. first + steps * words) . w for P pixels. `w` walks the full panels (16 words a step), `wh` the half panel (8).
// The pixels' pointers stay as they are from tap to tap, only the index moves. With each four steps two lines are fetched into L2
// of the weights that come next, and `ahead` moves on by `ahead_step` bytes: so they arrive while these are at work. (Zen 3: in one burst
// before each tile the same fetches gained nothing on 14x14 and lost 10-20 % on 7x7; spread 84-91 -> 96 GFLOP/s, weights from memory.)
template <class Dot, int P, int F, int H>
REGNET_INLINE void accumulate(vf (&acc)[P][vectors(F, H)], const uint32_t* const (&xp)[P], int64_t first, const uint32_t*& w,
                              const uint32_t*& wh, int64_t panel_words, int64_t steps, const char*& ahead, int64_t ahead_step) {
  constexpr int W = kWords<Dot>;
  const int64_t end = first + steps * W;
  int64_t k = first;
  for (; k + 3 * W < end; k += 4 * W) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      step<Dot, P, F, H>(acc, xp, k + i * W, w, wh, panel_words);
      if constexpr (F != 0) w += 16;
      if constexpr (H != 0) wh += 8;
      asm volatile("" ::: "memory");  // else g++ 12 loads several steps' weights at once and spills accumulators (-20 to -40 %)
    }
    fetch_ahead(ahead);
    fetch_ahead(ahead + 64);
    ahead += ahead_step;
  }
  for (; k < end; k += W) {
    step<Dot, P, F, H>(acc, xp, k, w, wh, panel_words);
    if constexpr (F != 0) w += 16;
    if constexpr (H != 0) wh += 8;
  }
}

// Out of line: inlined into every tile it would be half of the code.
__attribute__((noinline)) void silu_all(vf* v, int count) {
  for (int i = 0; i < count; i++) v[i] = silu(v[i]);
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

// LANES is VL, or 8 of 16. By a shuffle, never by copying a part of a vector: g++ 12 does that through the stack, where the load of
// the whole waits for the store of the part (150 cycles a tile).
template <int LANES> struct Lanes {
  typedef float F __attribute__((vector_size(LANES * 4)));
  typedef uint16_t H __attribute__((vector_size(LANES * 2)));
};
#if VL == 16
REGNET_INLINE Lanes<8>::F low_lanes(vf v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
REGNET_INLINE vf widen_lanes(Lanes<8>::F v) {
  return __builtin_shufflevector(v, Lanes<8>::F{}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif
template <int LANES>
REGNET_INLINE void store_lanes(float* y, vf v) {
#if VL == 16
  if constexpr (LANES == 8) {
    const Lanes<8>::F low = low_lanes(v);
    __builtin_memcpy(y, &low, sizeof low);
    return;
  }
#endif
  __builtin_memcpy(y, &v, LANES * 4);
}
template <int LANES>
REGNET_INLINE void store_lanes(uint16_t* y, vf v) {
  const vh h = to_bf16(v);
#if VL == 16
  if constexpr (LANES == 8) {
    const Lanes<8>::H low = __builtin_shufflevector(h, h, 0, 1, 2, 3, 4, 5, 6, 7);
    __builtin_memcpy(y, &low, sizeof low);
    return;
  }
#endif
  __builtin_memcpy(y, &h, LANES * 2);
}
// By 8 of 16 lanes: copied into a vector of zeros, g++ 12 would take them through the stack, some 20 cycles each.
template <int LANES>
REGNET_INLINE vf load_lanes(const float* p) {
#if VL == 16
  if constexpr (LANES == 8) return (vf)load_half_words((const uint32_t*)p);
#endif
  vf v{};
  __builtin_memcpy(&v, p, LANES * 4);
  return v;
}
template <int LANES>
REGNET_INLINE vf load_lanes(const uint16_t* p) {
  typename Lanes<LANES>::H h;
  __builtin_memcpy(&h, p, LANES * 2);
#if VL == 16
  if constexpr (LANES == 8) {
    typedef uint32_t U __attribute__((vector_size(32)));
    return widen_lanes((Lanes<8>::F)(__builtin_convertvector(h, U) << 16));
  } else {
    return widen_bf16(h);
  }
#else
  return widen_bf16(h);
#endif
}
REGNET_INLINE float to_float(float v) { return v; }
REGNET_INLINE float to_float(uint16_t v) { return bf16_to_float(v); }
REGNET_INLINE void put(float* y, float v) { *y = v; }
REGNET_INLINE void put(uint16_t* y, float v) { *y = float_to_bf16(v); }

// Vector v of a tile, of all its lanes. Constants once the loop over v is unrolled. (Through a lambda g++ 12 would keep the accumulators
// in memory: 24 stores before the loop, 24 stores and loads after it, a fifth of the time of 24 steps.)
template <int F, int H, class T>
REGNET_INLINE void store_vector(T* y, int v, vf value) {
#if VL == 16
  if (lane_count<F, H>(v) == 8) return store_lanes<8>(y + first_lane<F, H>(v), value);
#endif
  store_lanes<VL>(y + first_lane<F, H>(v), value);
}
template <int F, int H, class T>
REGNET_INLINE vf load_vector(const T* p, int v) {
#if VL == 16
  if (lane_count<F, H>(v) == 8) return load_lanes<8>(p + first_lane<F, H>(v));
#endif
  return load_lanes<VL>(p + first_lane<F, H>(v));
}
