// Rows of the caller's image to float32, channels last. Included by kernels.cpp alone.

template <Scalar S>
REGNET_INLINE vf load_scalars(const void* p, int64_t i) {
  if constexpr (S == Scalar::f32) return load(static_cast<const float*>(p) + i);
  const uint16_t* const at = static_cast<const uint16_t*>(p) + i;
  if constexpr (S == Scalar::bf16) return from_bf16(at);
  vh h;
  __builtin_memcpy(&h, at, sizeof h);
  const vu u = __builtin_convertvector(h, vu), magnitude = (u & 0x7fff) << 13;
  const vu normal = magnitude + (112u << 23), special = magnitude + (224u << 23);
  const vu subnormal = (vu)((vf)(magnitude + (113u << 23)) - 6.103515625e-05f);  // 2^-14 (1 + fraction) - 2^-14
  const vf v = select(magnitude < (1u << 23), (vf)subnormal, select(magnitude >= (31u << 23), (vf)special, (vf)normal));
  return (vf)((vu)v | (u & 0x8000) << 16);
}

// Vector J of a, b and c taking turns lane by lane.
template <int J, int... I>
REGNET_INLINE vf weave(vf a, vf b, vf c, std::integer_sequence<int, I...>) {
  const vf ab = __builtin_shufflevector(a, b, ((J * VL + I) % 3 == 1) * VL + (J * VL + I) / 3 ...);
  return __builtin_shufflevector(ab, c, ((J * VL + I) % 3 == 2 ? VL + (J * VL + I) / 3 : I)...);
}

// `pixels` pixels of three planes -> [pixels][3].
template <Scalar S>
void weave_planes_of(const void* a, const void* b, const void* c, int64_t pixels, float* out) {
  const auto weave_at = [&](int64_t i, const void* pa, const void* pb, const void* pc, float* to) {
    const vf va = load_scalars<S>(pa, i), vb = load_scalars<S>(pb, i), vc = load_scalars<S>(pc, i);
    constexpr std::make_integer_sequence<int, VL> lanes;
    store(to, weave<0>(va, vb, vc, lanes));
    store(to + VL, weave<1>(va, vb, vc, lanes));
    store(to + 2 * VL, weave<2>(va, vb, vc, lanes));
  };
  int64_t i = 0;
  for (; i + VL <= pixels; i += VL) weave_at(i, a, b, c, out + i * 3);
  if (i == pixels) return;
  constexpr int64_t kBytes = S == Scalar::f32 ? 4 : 2;
  float tail[3][VL] = {}, woven[3 * VL];
  const void* const planes[3] = {a, b, c};
  for (int p = 0; p < 3; p++) __builtin_memcpy(tail[p], static_cast<const char*>(planes[p]) + i * kBytes, (pixels - i) * kBytes);
  weave_at(0, tail[0], tail[1], tail[2], woven);
  __builtin_memcpy(out + i * 3, woven, (pixels - i) * 3 * sizeof(float));
}
void weave_planes(Scalar s, const void* a, const void* b, const void* c, int64_t pixels, float* out) {
  if (s == Scalar::f32) weave_planes_of<Scalar::f32>(a, b, c, pixels, out);
  else if (s == Scalar::f16) weave_planes_of<Scalar::f16>(a, b, c, pixels, out);
  else weave_planes_of<Scalar::bf16>(a, b, c, pixels, out);
}

template <Scalar S>
void widen_of(const void* x, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + VL <= count; i += VL) store(out + i, load_scalars<S>(x, i));
  if (i == count) return;
  uint16_t tail[VL] = {};
  float wide[VL];
  __builtin_memcpy(tail, static_cast<const uint16_t*>(x) + i, (count - i) * sizeof(uint16_t));
  store(wide, load_scalars<S>(tail, 0));
  __builtin_memcpy(out + i, wide, (count - i) * sizeof(float));
}
void widen(Scalar s, const void* x, int64_t count, float* out) {
  if (s == Scalar::f32) __builtin_memcpy(out, x, count * sizeof(float));
  else if (s == Scalar::f16) widen_of<Scalar::f16>(x, count, out);
  else widen_of<Scalar::bf16>(x, count, out);
}
