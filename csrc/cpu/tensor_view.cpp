#include "tensor_view.h"

#include <cmath>
#include <cstring>

namespace regnet_kernels::cpu {
namespace {

float bits_to_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
uint32_t float_to_bits(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}
uint16_t float_to_bf16(float f) {
  const uint32_t bits = float_to_bits(f);
  if (f != f) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

struct AsF32 {
  static float at(const void* p, int64_t i) { return static_cast<const float*>(p)[i]; }
};
struct AsF16 {
  static float at(const void* p, int64_t i) { return half_to_float(static_cast<const uint16_t*>(p)[i]); }
};
struct AsBf16 {
  static float at(const void* p, int64_t i) { return bits_to_float(static_cast<uint32_t>(static_cast<const uint16_t*>(p)[i]) << 16); }
};
void put(float* p, float v) { *p = v; }
void put(uint16_t* p, float v) { *p = float_to_bf16(v); }

template <class In, class Out>
void load_row(const TensorView& x, int64_t offset, const float* gate, Out* out) {
  if (x.c <= 8 && gate == nullptr) {  // an image: a few planes
    for (int64_t c = 0; c < x.c; c++)
      for (int64_t w = 0; w < x.w; w++) put(out + w * x.c + c, In::at(x.data, offset + c * x.stride_c + w * x.stride_w));
    return;
  }
  for (int64_t w = 0; w < x.w; w++)
    for (int64_t c = 0; c < x.c; c++) {
      const float v = In::at(x.data, offset + c * x.stride_c + w * x.stride_w);
      put(out + w * x.c + c, gate ? v * gate[c] : v);
    }
}

template <class Out>
void load_rows_to(const Kernels& k, const TensorView& x, int64_t n, int64_t row0, int64_t row1, int64_t pad, const float* gate, Out* image) {
  const int64_t pitch = (x.w + 2 * pad) * x.c;
  for (int64_t row = row0; row < row1; row++) {
    Out* out = image + row * pitch;
    const int64_t h = row - pad;
    if (h < 0 || h >= x.h) {
      std::memset(out, 0, pitch * sizeof(Out));
      continue;
    }
    std::memset(out, 0, pad * x.c * sizeof(Out));
    std::memset(out + pitch - pad * x.c, 0, pad * x.c * sizeof(Out));
    out += pad * x.c;
    const int64_t offset = n * x.stride_n + h * x.stride_h;
    const bool dense = (x.stride_c == 1 || x.c == 1) && (x.stride_w == x.c || x.w == 1) && gate == nullptr;
    const auto at = [&](int64_t channel) { return static_cast<const char*>(x.data) + (offset + channel * x.stride_c) * scalar_bytes(x.scalar); };
    if (dense && sizeof(Out) == 4) {
      k.widen(x.scalar, at(0), x.w * x.c, reinterpret_cast<float*>(out));
    } else if (x.c == 3 && x.stride_w == 1 && gate == nullptr && sizeof(Out) == 4) {
      k.weave_planes(x.scalar, at(0), at(1), at(2), x.w, reinterpret_cast<float*>(out));
    } else if (dense && x.scalar == Scalar::bf16 && sizeof(Out) == 2) {
      std::memcpy(out, static_cast<const uint16_t*>(x.data) + offset, x.w * x.c * 2);
    } else if (x.scalar == Scalar::f32) {
      load_row<AsF32>(x, offset, gate, out);
    } else if (x.scalar == Scalar::f16) {
      load_row<AsF16>(x, offset, gate, out);
    } else {
      load_row<AsBf16>(x, offset, gate, out);
    }
  }
}

float weight_at(const WeightView& w, int64_t i) {
  switch (w.scalar) {
    case Scalar::f32: return AsF32::at(w.data, i);
    case Scalar::f16: return AsF16::at(w.data, i);
    default: return AsBf16::at(w.data, i);
  }
}

}  // namespace

float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) return bits_to_float(sign | float_to_bits(static_cast<float>(mantissa) * 5.9604644775390625e-8f));
  return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

void float_to_half(const float* in, uint16_t* out, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    const uint32_t bits = float_to_bits(in[i]);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) {
      out[i] = sign | 0x7e00;
    } else if (magnitude >= 0x477ff000) {  // rounds to 65536 or more
      out[i] = sign | 0x7c00;
    } else if (magnitude < 0x38800000) {  // subnormal in half: let the float adder round, to even
      out[i] = sign | static_cast<uint16_t>(float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000);
    } else {
      out[i] = sign | static_cast<uint16_t>((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13);
    }
  }
}

void load_rows(const Kernels& k, const TensorView& x, int64_t n, int64_t row0, int64_t row1, int64_t pad, const float* gate, Type type, void* out) {
  if (type == Type::f32) load_rows_to(k, x, n, row0, row1, pad, gate, static_cast<float*>(out));
  else load_rows_to(k, x, n, row0, row1, pad, gate, static_cast<uint16_t*>(out));
}

void zero_border(void* image, int64_t top, int64_t h, int64_t w, int64_t padded_h, int64_t padded_w, int64_t pixel_bytes) {
  char* p = static_cast<char*>(image);
  const int64_t pitch = padded_w * pixel_bytes;
  if (h <= 0 || w <= 0) return static_cast<void>(std::memset(p, 0, padded_h * pitch));
  const int64_t right = (padded_w - w - 1) * pixel_bytes;  // and the next row's left pixel follow each other
  std::memset(p, 0, top * pitch + pixel_bytes);
  for (int64_t row = top; row + 1 < h + top; row++) std::memset(p + row * pitch + (w + 1) * pixel_bytes, 0, right + pixel_bytes);
  std::memset(p + (h + top) * pitch - right, 0, (padded_h - h - top) * pitch + right);
}

int64_t packed_words(int64_t out_channels, int64_t groups, int64_t k, Type type) {
  return groups * panel_lanes(out_channels / groups) * (type == Type::f32 ? k : (k + 1) / 2);
}

void pack_weights(const WeightView& w, int64_t groups, Type type, bool pairs, uint32_t* out) {
  const int64_t group_out = w.o / groups, k_total = w.i * w.kh * w.kw;
  const int64_t steps = type == Type::f32 ? k_total : (k_total + 1) / 2;
  std::memset(out, 0, packed_words(w.o, groups, k_total, type) * 4);
  const int64_t panel = pairs ? kPairPanel : kPanel;
  for (int64_t g = 0; g < groups; g++)
    for (int64_t first = 0; first < group_out; first += panel) {
      const int64_t lanes = pairs ? kPairPanel : group_out - first < kPanel ? panel_lanes(group_out - first) : kPanel;
      for (int64_t lane = 0; lane < lanes && first + lane < group_out; lane++) {
        const int64_t o = g * group_out + first + lane;
        int64_t k = 0;
        for (int64_t kh = 0; kh < w.kh; kh++)
          for (int64_t kw = 0; kw < w.kw; kw++)
            for (int64_t i = 0; i < w.i; i++, k++) {
              const float v = weight_at(w, o * w.stride_o + i * w.stride_i + kh * w.stride_h + kw * w.stride_w);
              const int64_t word = type == Type::f32 ? k : k / 2;
              uint32_t& at = out[pairs ? (word / 2 * lanes + lane) * 2 + word % 2 : word * lanes + lane];
              if (type == Type::f32) at = float_to_bits(v);
              else at |= static_cast<uint32_t>(float_to_bf16(v)) << (k % 2 * 16);
            }
      }
      out += steps * lanes;
    }
}

}  // namespace regnet_kernels::cpu
