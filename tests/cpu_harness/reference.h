// The same mathematics in double precision, loop by loop, with what the error bounds need.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

using regnet_kernels::cpu::Activation;
using Doubles = std::vector<double>;

struct Window {
  int64_t images, channels, h, w, out_channels, kernel_h, kernel_w, groups, stride, padding;
  int64_t out_h() const { return (h + 2 * padding - kernel_h) / stride + 1; }
  int64_t out_w() const { return (w + 2 * padding - kernel_w) / stride + 1; }
  int64_t group_in() const { return channels / groups; }
  int64_t terms() const { return group_in() * kernel_h * kernel_w; }
};

// x: NHWC; weights: (O, kh, kw, C / groups). y: NHWC, without bias. magnitude: the same sums of |x| |w|, or null.
// variance: given x's variances, sums of w^2 variance, or null.
void convolve(const Window& window, const Doubles& x, const Doubles& weights, Doubles& y, Doubles* magnitude,
              const Doubles* x_variance = nullptr, Doubles* variance = nullptr);

double activate(double v, Activation a);

// Winograd's inner product of 1968: the channels of a 1x1's `k` that are multiplied as pairs, (x1 + w2)(x2 + w1) where `sign` is 1 and
// (x1 - w2)(w1 - x2) where it is -1.
struct ChannelPair {
  size_t first, second;
  int sign;
};
std::vector<ChannelPair> pairs_of(int64_t k);

// For the error bound of a 1x1 by pairs: x (pixels, k), weights (rows, k) -> (pixels, rows), by how much the sum of the absolute values of all its
// terms may exceed that of a direct one's, sum |x| |w|. See the definition.
void pair_excess(const Doubles& x, const Doubles& weights, int64_t k, Doubles& excess);

// Winograd F(4x4, 3x3), for the error bound of a stride-1 padded 3x3 convolution: the sums of |A| |A| (|G| |G| |w| |B| |B| |x|), NHWC, which
// no intermediate result of the algorithm exceeds, nor of F(2, 3) with three of its points.
void winograd_magnitude(const Window& window, const Doubles& x, const Doubles& weights, Doubles& magnitude);

// The same of a convolution of stride 2 in tiles of 2x2 outputs: sums of the absolute values of all terms of
//   y0 = w0 (e0 - e1) + w1 o0 + (w0 + w2) e1,   y1 = w2 (e2 - e1) + w1 o1 + (w0 + w2) e1,   e and o the even and odd pixels of a line,
// in both dimensions.
void winograd_strided_magnitude(const Window& window, const Doubles& x, const Doubles& weights, Doubles& magnitude);

// F(2x2, 3x3): the transformed weights of a 3x3 filter; the sums of |A| |A| (|U| |B| |B| |x|), and those of the squares of all products that
// make an output pixel.
void winograd_bf16_weights(const double filter[9], double u[16]);
void winograd_bf16_magnitude(const Window& window, const Doubles& x, const Doubles& weights, Doubles& magnitude, Doubles& squares);
