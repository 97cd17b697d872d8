#include "data.h"

#include <cmath>

uint64_t Random::next() {  // splitmix64
  uint64_t z = state_ += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

double Random::normal() { return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(2 * M_PI * uniform()); }

namespace {

struct Format {
  int bits, lowest;  // significant bits, exponent of the smallest normal
};
Format format(Scalar s) { return s == Scalar::f32 ? Format{24, -126} : s == Scalar::bf16 ? Format{8, -126} : Format{11, -14}; }

}  // namespace

double unit(Scalar s) { return std::ldexp(1.0, -format(s).bits); }
double smallest(Scalar s) { return std::ldexp(1.0, format(s).lowest - format(s).bits); }

double round_to(Scalar s, double v) {
  const Format f = format(s);
  int exponent;
  std::frexp(v, &exponent);
  const int step = std::max(exponent - 1, f.lowest) - (f.bits - 1);
  return std::ldexp(std::nearbyint(std::ldexp(v, -step)), step);
}

void put(void* data, Scalar s, int64_t i, double v) {
  const double rounded = round_to(s, v);
  const float f = static_cast<float>(rounded);
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if (s == Scalar::f32) {
    static_cast<uint32_t*>(data)[i] = bits;
  } else if (s == Scalar::bf16) {
    static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(bits >> 16);
  } else {
    const double magnitude = std::fabs(rounded), denormal = std::ldexp(magnitude, 24);
    const uint32_t word = magnitude < 0x1p-14 ? static_cast<uint32_t>(denormal) : ((bits & 0x7fffffff) >> 13) - (112 << 10);
    static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(word | (bits >> 31 << 15));
  }
}

double get(const void* data, Scalar s, int64_t i) {
  if (s == Scalar::f32) return static_cast<const float*>(data)[i];
  const uint16_t word = static_cast<const uint16_t*>(data)[i];
  if (s == Scalar::bf16) {
    const uint32_t bits = static_cast<uint32_t>(word) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  }
  const int exponent = word >> 10 & 31, mantissa = word & 0x3ff;
  const double magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                           : exponent     ? std::ldexp(1024 + mantissa, exponent - 25)
                                          : std::ldexp(mantissa, -24);
  return word & 0x8000 ? -magnitude : magnitude;
}

const char* name(Layout layout) {
  const char* const names[] = {"nhwc", "nchw", "nhwc_slice", "nwch_spaced", "expanded", "nhwc_odd"};
  return names[static_cast<int>(layout)];
}
const char* name(Scalar s) { return s == Scalar::f32 ? "f32" : s == Scalar::f16 ? "f16" : "bf16"; }

Tensor random_tensor(Random& random, Scalar s, int64_t n, int64_t c, int64_t h, int64_t w, Layout layout, double scale, bool wild) {
  Tensor t;
  TensorView& v = t.view;
  v = {s, nullptr, n, c, h, w, h * w * c, 1, w * c, c};
  size_t tail = 0;
  switch (layout) {
    case Layout::nhwc: break;
    case Layout::nchw: v.stride_c = h * w, v.stride_h = w, v.stride_w = 1; break;
    case Layout::nhwc_slice: v.stride_w = c + 3, v.stride_h = v.stride_w * w, v.stride_n = v.stride_h * h; break;
    case Layout::nwch_spaced: v.stride_h = 2, v.stride_c = 2 * h + 1, v.stride_w = v.stride_c * c, v.stride_n = v.stride_w * w; break;
    case Layout::expanded: v.stride_n = 0, v.stride_h = 0; break;
    case Layout::nhwc_odd: tail = static_cast<size_t>(scalar_bytes(s)); break;  // a 16-bit tensor that begins inside of a word
  }
  const int64_t elements =
      n * c * h * w == 0 ? 0 : 1 + (n - 1) * v.stride_n + (c - 1) * v.stride_c + (h - 1) * v.stride_h + (w - 1) * v.stride_w;
  t.memory = Guarded(static_cast<size_t>(elements * scalar_bytes(s)), tail);
  v.data = t.memory.data();
  // Twice the same walk: in an expanded tensor, an element is written many times and the last one counts.
  t.values.resize(static_cast<size_t>(n * c * h * w));
  for (const bool write : {true, false}) {
    size_t at = 0;
    for (int64_t i = 0; i < n; i++)
      for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
          const double size = !wild || !write ? scale : random.chance(0.125) ? 0 : scale * std::pow(10.0, static_cast<double>(random.below(13) - 6));
          for (int64_t k = 0; k < c; k++) {
            const int64_t element = i * v.stride_n + y * v.stride_h + x * v.stride_w + k * v.stride_c;
            if (write) put(t.memory.data(), s, element, random.normal() * size);
            else t.values[at++] = get(t.memory.data(), s, element);
          }
        }
  }
  t.memory.protect();
  return t;
}

Floats random_floats(Random& random, int64_t count, double scale) {
  Floats f{Guarded(static_cast<size_t>(count) * 4), std::vector<double>(static_cast<size_t>(count))};
  for (int64_t i = 0; i < count; i++) {
    put(f.memory.data(), Scalar::f32, i, random.normal() * scale);
    f.values[static_cast<size_t>(i)] = get(f.memory.data(), Scalar::f32, i);
  }
  f.memory.protect();
  return f;
}
