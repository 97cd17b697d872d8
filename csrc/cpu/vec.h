// Vectors of the instruction set that this translation unit is compiled for, in GCC's vector extensions: the same source
// becomes SSE2, NEON, AVX2 or AVX-512. Included by kernels.cpp alone, inside an anonymous namespace: nothing here may have
// external linkage, or the linker could give a baseline machine the AVX-512 copy of an inline function.
#define REGNET_INLINE inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef double vd __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));

// A line of what is read later -> the caches. With vectors of 16 lanes to L1, from where it goes on to L2: on Zen 5 the hint for L2 alone left a 1x1 by
// pairs with weights from memory up to 10 % slower (7x7, 672 channels 154 and 143 us); networks in bfloat16 0.5 %.
REGNET_INLINE void fetch_ahead(const void* p) { __builtin_prefetch(p, 0, VL == 16 ? 3 : 2); }

REGNET_INLINE vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
REGNET_INLINE void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
REGNET_INLINE vf broadcast(float s) {
#if VL == 4
  return vf{s, s, s, s};
#elif VL == 8
  return vf{s, s, s, s, s, s, s, s};
#else
  return vf{s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s};
#endif
}
REGNET_INLINE vd broadcast_double(double s) {
#if VL == 4
  return vd{s, s};
#elif VL == 8
  return vd{s, s, s, s};
#else
  return vd{s, s, s, s, s, s, s, s};
#endif
}
REGNET_INLINE vu broadcast_word(uint32_t s) {
#if VL == 4
  return vu{s, s, s, s};
#elif VL == 8
  return vu{s, s, s, s, s, s, s, s};
#else
  return vu{s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s};
#endif
}

// A vector's worth of words of a weight panel. A half panel (8 lanes) fills half of a 16-lane vector: the upper lanes are 0.
REGNET_INLINE vu load_words(const uint32_t* p) {
  vu v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
#if VL == 16
REGNET_INLINE vu load_half_words(const uint32_t* p) {
  typedef uint32_t v8 __attribute__((vector_size(32)));
  v8 low;
  __builtin_memcpy(&low, p, sizeof low);
  return __builtin_shufflevector(low, v8{}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif

#if VL == 16
// The lower half of a, the upper half of b; and the sum of v's halves, in the lower one.
REGNET_INLINE vf join_halves(vf a, vf b) {
#if defined(__AVX512F__)  // g++ 12 makes two shuffles of the other
  return (vf)_mm512_mask_blend_ps(0xff00, (__m512)a, (__m512)b);
#else
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31);
#endif
}
REGNET_INLINE vf add_halves(vf v) {
  return v + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
}
#else  // never called
REGNET_INLINE vf join_halves(vf a, vf) { return a; }
REGNET_INLINE vf add_halves(vf v) { return v; }
#endif

REGNET_INLINE float horizontal_sum(vf v) {
  float lanes[VL], sum = 0;
  store(lanes, v);
  for (int i = 0; i < VL; i++) sum += lanes[i];
  return sum;
}

// The same by halves, in log2(VL) additions.
REGNET_INLINE float fold_sum(vf v) {
#if VL == 16
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
#elif VL == 8
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3);
#else
  v += __builtin_shufflevector(v, v, 2, 3, 2, 3);
#endif
  return v[0] + v[1];
}

// All bits of the odd lanes.
REGNET_INLINE vu odd_lanes() {
#if VL == 4
  return vu{0, ~0u, 0, ~0u};
#elif VL == 8
  return vu{0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u};
#else
  return vu{0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u};
#endif
}

REGNET_INLINE vf select(vi mask, vf a, vf b) { return (vf)((vi)((vu)a & (vu)mask) | (vi)((vu)b & ~(vu)mask)); }
REGNET_INLINE vf relu(vf v) { return vf{} > v ? vf{} : v; }  // one max instruction; NaN stays NaN, as torch's

// e^x to about 1 ulp: x = n ln 2 + r, a degree-6 polynomial in r, then the exponent's bits. Clamped where float32 ends.
REGNET_INLINE vf exp_approx(vf x) {
  const vf lowest = broadcast(-87.33654f), highest = broadcast(88.37626f);
  x = select(x < lowest, lowest, x);
  x = select(x > highest, highest, x);
  const vf magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  vf n = x * broadcast(1.44269504089f) + magic;
  const vi exponent = ((vi)n - (vi)magic) << 23;
  n = n - magic;
  vf r = x - n * broadcast(0.693359375f);
  r = r - n * broadcast(-2.12194440e-4f);
  vf p = broadcast(1.0f / 720);
  p = p * r + broadcast(1.0f / 120);
  p = p * r + broadcast(1.0f / 24);
  p = p * r + broadcast(1.0f / 6);
  p = p * r + broadcast(0.5f);
  p = p * r + broadcast(1.0f);
  p = p * r + broadcast(1.0f);
  return (vf)((vi)p + exponent);
}
REGNET_INLINE vf sigmoid(vf v) {
  const vf s = broadcast(1.0f) / (broadcast(1.0f) + exp_approx(-v));
  return select(v == v, s, v);
}
REGNET_INLINE vf silu(vf v) { return v * sigmoid(v); }

// bfloat16: the upper half of a float32; stores round to nearest even and keep NaN.
REGNET_INLINE vh to_bf16(vf v) {
#if defined(REGNET_NATIVE_BF16)
  // One instruction for eleven, which after a short reduction took as long as the dot products. Denormals become 0, as they
  // do in those.
  return (vh)_mm512_cvtneps_pbh((__m512)v);
#endif
  const vu bits = (vu)v;
  const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const vu quiet = (bits >> 16) | 0x40u;
  const vu nan = (vu)(v != v);
  return __builtin_convertvector((rounded & ~nan) | (quiet & nan), vh);
}
REGNET_INLINE vf widen_bf16(vh h) {
#if defined(__AVX512F__)  // of the conversion below g++ 12 makes four instructions, each half by itself; and it warns of the intrinsic without a mask
  return (vf)((vu)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)h) << 16);
#else
  return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}
REGNET_INLINE vf from_bf16(const uint16_t* p) {
  vh h;
  __builtin_memcpy(&h, p, sizeof h);
  return widen_bf16(h);
}
REGNET_INLINE float bf16_to_float(uint16_t h) {
  const uint32_t bits = (uint32_t)h << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
REGNET_INLINE uint16_t float_to_bf16(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  if (f != f) return (uint16_t)((bits >> 16) | 0x40u);
  return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// One step along the reduction axis: a word of the input, or kWords side by side, broadcast, against a vector of words of the weights.
template <class Dot> constexpr int kWords = Dot::kWords;
struct OneWord {
  static constexpr int kWords = 1;
  static REGNET_INLINE vf fetch(const uint32_t* p) {
    float s;
    __builtin_memcpy(&s, p, sizeof s);
    return broadcast(s);
  }
};
// The same channel of two interleaved groups, or two channels of one (then the sums are folded, see fold_pairs).
struct TwoWords {
  static constexpr int kWords = 2;
  static REGNET_INLINE vf fetch(const uint32_t* p) {
    double s;
    __builtin_memcpy(&s, p, sizeof s);
    return (vf)broadcast_double(s);
  }
};
struct FourWords {  // of four interleaved groups
  static constexpr int kWords = 4;
  static REGNET_INLINE vf fetch(const uint32_t* p) {
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
#if VL == 4
    return *(const Four*)p;
#elif VL == 8
    vf v;
    asm("vbroadcastf128 %1, %0" : "=x"(v) : "m"(*(const Four*)p));
    return v;
#elif defined(__AVX512F__)
    vf v;  // the one instruction for both takes the multiply-adds' turns: 8 of it and 16 of them are 9.05 cycles, so 8.1
    asm("vmovups %1, %x0\n\tvshuff32x4 $0, %0, %0, %0" : "=v"(v) : "m"(*(const Four*)p));
    return v;
#else
    const Four v = *(const Four*)p;
    return __builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
#endif
  }
};
template <class Words>
struct DotF32Of : Words {
  static REGNET_INLINE vf dot(vf acc, vf x, vu w) { return acc + x * (vf)w; }
};
typedef DotF32Of<OneWord> DotF32;
typedef DotF32Of<TwoWords> DotPairF32;
typedef DotF32Of<FourWords> DotQuadF32;

// The sums of the pairs of a and b, in order: VL outputs.
REGNET_INLINE vf fold_pairs(vf a, vf b) {
#if VL == 4
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#elif VL == 8  // within 128-bit lanes first, then one permutation of 64-bit words
  const vf s = __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
  return __builtin_shufflevector(s, s, 0, 1, 4, 5, 2, 3, 6, 7);
#else
  const vf s = __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
               __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
  return __builtin_shufflevector(s, s, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
#endif
}
REGNET_INLINE vf dot_bf16(vf acc, vu x, vu w) {
#if defined(REGNET_NATIVE_BF16)
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)x, (__m512bh)w);
#else
  acc = acc + (vf)(x << 16) * (vf)(w << 16);
  return acc + (vf)(x & 0xffff0000u) * (vf)(w & 0xffff0000u);
#endif
}
template <class Words>
struct DotBf16Of : Words {
  static REGNET_INLINE vf dot(vf acc, vf x, vu w) { return dot_bf16(acc, (vu)x, w); }
};
typedef DotBf16Of<OneWord> DotBf16;
typedef DotBf16Of<TwoWords> DotPairBf16;
typedef DotBf16Of<FourWords> DotQuadBf16;
template <class Dot> constexpr bool kIsBf16 = __is_same(Dot, DotBf16) || __is_same(Dot, DotPairBf16) || __is_same(Dot, DotQuadBf16);

// acc += x . w in acc's own register. g++ 12 lets a sum take the register of x here and there, which spills others where all are in use
// (and serves where some are free).
template <class Dot>
REGNET_INLINE void dot_in_place(vf& acc, vf x, vu w) {
#if defined(__AVX512F__)
  if constexpr (!kIsBf16<Dot>) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return;
  }
#endif
  acc = Dot::dot(acc, x, w);
}
