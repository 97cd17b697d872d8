// The stem of a RegNet: 3x3 of stride 2 from 3 channels to 32. Included by kernels.cpp alone.
//
// Its pixels lie 6 floats apart, so of a tile within one row all words are at constants from three pointers: no general register a
// pixel, and tiles of 14 pixels with vectors of 16 lanes. The other sets take it as any dense convolution.
#if VL == 16
constexpr int kStemTaps = 3, kStemSteps = 9, kStemPixel = 6, kStemOut = 32;

REGNET_INLINE bool is_stem(const Conv& c, const ConvTask& task) {
  return c.type == Type::f32 && c.taps == kStemTaps && c.steps == kStemSteps && c.x_pixel == kStemPixel && c.group_out == kStemOut &&
         c.y_pixel == kStemOut && c.bias && !c.steps2 && !c.residual && !c.gate && !c.pool && c.activation != Activation::silu &&
         task.panel0 == 0 && task.panel1 == c.panels();
}

// `count` pixels of a row in tiles of P <= count. The last tile begins so that it ends with them: it may compute a few again.
template <int P, class Y>
__attribute__((noinline)) void run_stem(const Conv& c, const float* x, Y* y, int64_t count) {
  const vf floor = broadcast(c.activation == Activation::relu ? 0.0f : -__builtin_inff());
  for (int64_t first = 0; first < count; first += P) {
    if (first + P > count) first = count - P;
    vf acc[P][2];
    const vf bias[2] = {load(c.bias), load(c.bias + VL)};
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) acc[p][0] = bias[0], acc[p][1] = bias[1];
    const float* w = (const float*)c.w;
#pragma GCC unroll 3
    for (int tap = 0; tap < kStemTaps; tap++, w += kStemSteps * kPanel) {
      const float* row = x + c.tap_offset[tap] + first * kStemPixel;
#pragma GCC unroll 16
      for (int k = 0; k < kStemSteps; k++) {
        const vf a = load(w + k * kPanel), b = load(w + (kStemTaps * kStemSteps + k) * kPanel);
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) {
          const vf s = broadcast(row[p * kStemPixel + k]);
          acc[p][0] += s * a, acc[p][1] += s * b;
        }
        // else g++ 12 loads several steps' weights at once, spills accumulators, and computes each pixel's address ahead
        asm volatile("" : "+r"(row) : : "memory");
      }
    }
    Y* const at = y + first * kStemOut;
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 2
      for (int v = 0; v < 2; v++)  // one max instruction; NaN stays NaN, as torch's
        store_lanes<VL>(at + p * kStemOut + v * VL, floor > acc[p][v] ? floor : acc[p][v]);
  }
}

// Tiles of the size that computes the fewest pixels again.
template <class Y>
REGNET_INLINE void stem_row(const Conv& c, const float* x, Y* y, int64_t count) {
  const int64_t by14 = (count + 13) / 14 * 14, by13 = (count + 12) / 13 * 13, by12 = (count + 11) / 12 * 12;
  if (by14 <= by13 && by14 <= by12 && count >= 14) run_stem<14>(c, x, y, count);
  else if (by13 <= by12 && count >= 13) run_stem<13>(c, x, y, count);
  else run_stem<12>(c, x, y, count);
}

void stem(const Conv& c, const ConvTask& task) {
  const int64_t area = (int64_t)c.out_h * c.out_w;
  for (int64_t pixel = task.pixel0; pixel < task.pixel1;) {  // what the task has of a row
    const int64_t n = pixel / area, oh = pixel % area / c.out_w, ow = pixel % c.out_w;
    const int64_t count = task.pixel1 - pixel < c.out_w - ow ? task.pixel1 - pixel : c.out_w - ow;
    if (count < 12) {
      dense<DotF32>(c, {pixel, pixel + count, task.panel0, task.panel1, 0}, nullptr);
    } else {
      const float* const x = (const float*)c.x + n * c.x_image + oh * c.x_row + ow * c.x_pixel;
      const int64_t y = n * c.y_image + oh * c.y_row + ow * c.y_pixel;
      if (c.y_type == Type::f32) stem_row(c, x, (float*)c.y + y, count);
      else stem_row(c, x, (uint16_t*)c.y + y, count);
    }
    pixel += count;
  }
}
#endif
