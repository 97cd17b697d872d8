// A torch-free look at a tensor, and the conversions at the door: any strides and type in, NHWC out.
#pragma once
#include <cstdint>

#include "kernels.h"

namespace regnet_kernels::cpu {

inline int64_t scalar_bytes(Scalar s) { return s == Scalar::f32 ? 4 : 2; }
inline int64_t type_bytes(Type t) { return t == Type::f32 ? 4 : 2; }

struct TensorView {  // (N, C, H, W), strides in elements
  Scalar scalar;
  const void* data;
  int64_t n, c, h, w;
  int64_t stride_n, stride_c, stride_h, stride_w;

  bool channels_last() const {  // dense NHWC; the stride of a dimension of size 1 says nothing
    return (c == 1 || stride_c == 1) && (w == 1 || stride_w == c) && (h == 1 || stride_h == c * w) &&
           (n == 1 || stride_n == c * w * h);
  }
};

// Rows [row0, row1) of image n into a dense NHWC image of (h + 2 pad) x (w + 2 pad) pixels of `type`, borders zero. Rows are
// counted in the padded image. `gate` (channels of image n), if given, scales the input.
void load_rows(const Kernels& k, const TensorView& x, int64_t n, int64_t row0, int64_t row1, int64_t pad, const float* gate, Type type, void* out);

// Zeroes the border of an NHWC image of padded_h x padded_w pixels whose interior, h x w, begins at pixel (top, 1).
void zero_border(void* image, int64_t top, int64_t h, int64_t w, int64_t padded_h, int64_t padded_w, int64_t pixel_bytes);

void float_to_half(const float* in, uint16_t* out, int64_t count);
float half_to_float(uint16_t h);

// Weights (O, I, kh, kw) of any strides -> the packed panels of each group, K ordered (kh, kw, i), in words of `type`.
struct WeightView {
  Scalar scalar;
  const void* data;
  int64_t o, i, kh, kw;
  int64_t stride_o, stride_i, stride_h, stride_w;
};
int64_t packed_words(int64_t out_channels, int64_t groups, int64_t k, Type type);
void pack_weights(const WeightView& w, int64_t groups, Type type, bool pairs, uint32_t* out);

}  // namespace regnet_kernels::cpu
