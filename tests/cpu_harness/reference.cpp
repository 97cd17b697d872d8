#include "reference.h"

#include <algorithm>
#include <cmath>

void convolve(const Window& p, const Doubles& x, const Doubles& weights, Doubles& y, Doubles* magnitude, const Doubles* x_variance,
              Doubles* variance) {
  const int64_t count = p.images * p.out_h() * p.out_w() * p.out_channels, width = p.group_in();
  y.assign(static_cast<size_t>(count), 0);
  if (magnitude) magnitude->assign(y.size(), 0);
  if (variance) variance->assign(y.size(), 0);
  size_t at = 0;
  for (int64_t n = 0; n < p.images; n++)
    for (int64_t oh = 0; oh < p.out_h(); oh++)
      for (int64_t ow = 0; ow < p.out_w(); ow++)
        for (int64_t o = 0; o < p.out_channels; o++, at++) {
          const int64_t group = o / (p.out_channels / p.groups);
          double sum = 0, size = 0, spread = 0;
          for (int64_t i = 0; i < p.kernel_h; i++) {
            const int64_t row = oh * p.stride + i - p.padding;
            if (row < 0 || row >= p.h) continue;
            for (int64_t j = 0; j < p.kernel_w; j++) {
              const int64_t column = ow * p.stride + j - p.padding;
              if (column < 0 || column >= p.w) continue;
              const int64_t from = ((n * p.h + row) * p.w + column) * p.channels + group * width;
              const double* a = x.data() + from;
              const double* b = weights.data() + ((o * p.kernel_h + i) * p.kernel_w + j) * width;
              for (int64_t k = 0; k < width; k++) sum += a[k] * b[k], size += std::fabs(a[k] * b[k]);
              if (variance)
                for (int64_t k = 0; k < width; k++) spread += b[k] * b[k] * (*x_variance)[static_cast<size_t>(from + k)];
            }
          }
          y[at] = sum;
          if (magnitude) (*magnitude)[at] = size;
          if (variance) (*variance)[at] = spread;
        }
}

double activate(double v, Activation a) {
  if (a == Activation::relu) return std::max(v, 0.0);
  return a == Activation::silu ? v / (1 + std::exp(-v)) : v;
}

std::vector<ChannelPair> pairs_of(int64_t k) {
  std::vector<ChannelPair> pairs;
  const auto run = [&](int64_t start, int64_t length) {
    for (int64_t j = 0; j < length / 3; j++)
      pairs.push_back({static_cast<size_t>(start + j), static_cast<size_t>(start + j + length / 3), j % 2 ? -1 : 1});
  };
  int64_t start = 0;
  for (; k - start >= 48; start += 48) run(start, 48);
  if (k - start >= 24) run(start, 24);
  return pairs;
}

// A pixel x is scaled by s, and back at the end. With absolute values for terms, a pair is (s |x1| + |w2|)(s |x2| + |w1|) / s, then s |x1 x2| and
// |w1 w2| / s, which are subtracted: beside |x1 w1| + |x2 w2|, 2 s |x1 x2| + 2 |w1 w2| / s. s is a power of 4 near to r, with which the root
// of the mean square of s x is that of w: r / 2 <= s <= 2 r. (For x and w of one size, s = r, all terms make 3 times those of two direct
// products. Of three channels two are a pair, so that sigma is up to 7 / 3 as large as a direct sum's, its square 5.4 times.) Here s is what is
// worst for either term, as the kernel's choice is its own. A pixel of zeros is exact.
void pair_excess(const Doubles& x, const Doubles& weights, int64_t k, Doubles& excess) {
  const std::vector<ChannelPair> pairs = pairs_of(k);
  const size_t each = static_cast<size_t>(k);
  const auto products = [&](const double* v) {
    double sum = 0;
    for (const ChannelPair& pair : pairs) sum += std::fabs(v[pair.first] * v[pair.second]);
    return sum;
  };
  const auto squares = [&](const double* begin, const double* end) {
    double sum = 0;
    for (; begin < end; begin++) sum += *begin * *begin;
    return sum / static_cast<double>(k);
  };
  const double rows = static_cast<double>(weights.size() / each), w_square = squares(weights.data(), weights.data() + weights.size()) / rows;
  Doubles of_row;
  for (size_t at = 0; at < weights.size(); at += each) of_row.push_back(products(weights.data() + at));
  excess.clear();
  for (size_t at = 0; at < x.size(); at += each) {
    const double x_square = squares(x.data() + at, x.data() + at + each), r = std::sqrt(w_square / x_square), of_pixel = products(x.data() + at);
    for (const double w : of_row) excess.push_back(x_square == 0 ? 0 : 4 * (r * of_pixel + w / r));
  }
}

namespace {

const double kHalfRoot = std::sqrt(0.5), kRoot = std::sqrt(2.0);
const double kPoints[5] = {0, kHalfRoot, -kHalfRoot, kRoot, -kRoot};

// Toom-Cook by Lagrange interpolation; Lavin and Gray (arXiv 1509.09308) give the same form for 0, +-1, +-2.
struct Matrices {
  double g[6][3] = {}, bt[6][6] = {}, at[4][6] = {};
  Matrices() {
    for (int p = 0; p < 5; p++) {
      double product[6] = {1}, scale = 1;  // of (x - q) over the other points
      for (int q = 0, degree = 0; q < 5; q++) {
        if (q == p) continue;
        scale *= kPoints[p] - kPoints[q];
        for (int i = ++degree; i >= 0; i--) product[i] = (i ? product[i - 1] : 0) - kPoints[q] * product[i];
      }
      for (int i = 0; i < 6; i++) bt[p][i] = product[i];
      for (int i = 0; i < 3; i++) g[p][i] = std::pow(kPoints[p], i) / scale;
      for (int i = 0; i < 4; i++) at[i][p] = std::pow(kPoints[p], i);
    }
    double all[6] = {1};
    for (int q = 0; q < 5; q++)
      for (int i = q + 1; i >= 0; i--) all[i] = (i ? all[i - 1] : 0) - kPoints[q] * all[i];
    for (int i = 0; i < 6; i++) bt[5][i] = all[i];
    g[5][2] = at[3][5] = 1;
  }
};
const Matrices m;

}  // namespace

void winograd_magnitude(const Window& p, const Doubles& x, const Doubles& weights, Doubles& magnitude) {
  const int64_t width = p.group_in();
  std::vector<double> u(static_cast<size_t>(p.channels * width * 36)), v(static_cast<size_t>(p.channels * 36));
  for (int64_t o = 0; o < p.channels; o++)
    for (int64_t k = 0; k < width; k++)
      for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) {
          double sum = 0;
          for (int t = 0; t < 9; t++) sum += std::fabs(m.g[i][t / 3] * weights[static_cast<size_t>((o * 9 + t) * width + k)] * m.g[j][t % 3]);
          u[static_cast<size_t>((o * width + k) * 36 + i * 6 + j)] = sum;
        }
  magnitude.assign(static_cast<size_t>(p.images * p.h * p.w * p.channels), 0);
  for (int64_t n = 0; n < p.images; n++)
    for (int64_t ty = 0; ty < p.h; ty += 4)
      for (int64_t tx = 0; tx < p.w; tx += 4) {
        for (int64_t c = 0; c < p.channels; c++) {
          double d[6][6] = {}, half[6][6];
          for (int i = 0; i < 6; i++)
            for (int j = 0; j < 6; j++) {
              const int64_t row = ty + i - 1, column = tx + j - 1;
              if (row >= 0 && row < p.h && column >= 0 && column < p.w)
                d[i][j] = std::fabs(x[static_cast<size_t>(((n * p.h + row) * p.w + column) * p.channels + c)]);
            }
          for (int i = 0; i < 6; i++)
            for (int j = 0; j < 6; j++) {
              half[i][j] = 0;
              for (int a = 0; a < 6; a++) half[i][j] += std::fabs(m.bt[i][a]) * d[a][j];
            }
          for (int i = 0; i < 6; i++)
            for (int j = 0; j < 6; j++) {
              double sum = 0;
              for (int a = 0; a < 6; a++) sum += half[i][a] * std::fabs(m.bt[j][a]);
              v[static_cast<size_t>(c * 36 + i * 6 + j)] = sum;
            }
        }
        for (int64_t o = 0; o < p.channels; o++) {
          double products[36] = {};
          for (int64_t k = 0; k < width; k++)
            for (int t = 0; t < 36; t++)
              products[t] += u[static_cast<size_t>((o * width + k) * 36 + t)] * v[static_cast<size_t>((o / width * width + k) * 36 + t)];
          for (int i = 0; i < 4 && ty + i < p.h; i++)
            for (int j = 0; j < 4 && tx + j < p.w; j++) {
              double sum = 0;
              for (int t = 0; t < 36; t++) sum += std::fabs(m.at[i][t / 6] * m.at[j][t % 6]) * products[t];
              magnitude[static_cast<size_t>(((n * p.h + ty + i) * p.w + tx + j) * p.channels + o)] = sum;
            }
        }
      }
}

void winograd_strided_magnitude(const Window& p, const Doubles& x, const Doubles& weights, Doubles& magnitude) {
  // Of an output of a line, with taps a, b, c at pixels 0, 1, 2 of it: the tap and the pixel of each pair of absolute values. The output's
  // place in its tile decides which of e0 and e2, and of w0 and w2, has a difference.
  struct Pair {
    int tap, pixel;
  };
  constexpr Pair kFirst[] = {{0, 0}, {0, 2}, {1, 1}, {0, 2}, {2, 2}}, kLast[] = {{2, 2}, {2, 0}, {1, 1}, {0, 0}, {2, 0}};
  const int64_t width = p.group_in(), out_h = p.out_h(), out_w = p.out_w();
  magnitude.assign(static_cast<size_t>(p.images * out_h * out_w * p.channels), 0);
  for (int64_t n = 0; n < p.images; n++)
    for (int64_t oy = 0; oy < out_h; oy++)
      for (int64_t ox = 0; ox < out_w; ox++)
        for (int64_t o = 0; o < p.channels; o++) {
          double sum = 0;
          for (const Pair& i : oy % 2 ? kLast : kFirst)
            for (const Pair& j : ox % 2 ? kLast : kFirst) {
              const int64_t row = 2 * oy + i.pixel - 1, column = 2 * ox + j.pixel - 1;
              if (row < 0 || row >= p.h || column < 0 || column >= p.w) continue;
              for (int64_t k = 0; k < width; k++)
                sum += std::fabs(weights[static_cast<size_t>((o * 9 + i.tap * 3 + j.tap) * width + k)] *
                                 x[static_cast<size_t>(((n * p.h + row) * p.w + column) * p.channels + o / width * width + k)]);
            }
          magnitude[static_cast<size_t>(((n * out_h + oy) * out_w + ox) * p.channels + o)] = sum;
        }
}

namespace {

// As Lavin and Gray write them.
constexpr double kG[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
constexpr double kBt[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
constexpr double kAt[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};

}  // namespace

void winograd_bf16_weights(const double filter[9], double u[16]) {
  for (int t = 0; t < 16; t++) {
    u[t] = 0;
    for (int i = 0; i < 9; i++) u[t] += kG[t / 4][i / 3] * filter[i] * kG[t % 4][i % 3];
  }
}

void winograd_bf16_magnitude(const Window& p, const Doubles& x, const Doubles& weights, Doubles& magnitude, Doubles& squares) {
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  const int64_t width = p.group_in();
  Doubles u(size(p.channels * width * 16)), v(size(p.channels * 16)), of_sizes(v.size());
  for (int64_t o = 0; o < p.channels; o++)
    for (int64_t k = 0; k < width; k++) {
      double filter[9];
      for (int64_t t = 0; t < 9; t++) filter[t] = weights[size((o * 9 + t) * width + k)];
      winograd_bf16_weights(filter, u.data() + (o * width + k) * 16);
    }
  magnitude.assign(size(p.images * p.h * p.w * p.channels), 0);
  squares = magnitude;
  for (int64_t n = 0; n < p.images; n++)
    for (int64_t ty = 0; ty < p.h; ty += 2)
      for (int64_t tx = 0; tx < p.w; tx += 2) {
        for (int64_t c = 0; c < p.channels; c++)
          for (int t = 0; t < 16; t++) {
            double sum = 0, sizes = 0;
            for (int64_t i = 0; i < 16; i++) {
              const int64_t row = ty + i / 4 - 1, column = tx + i % 4 - 1;
              if (row < 0 || row >= p.h || column < 0 || column >= p.w) continue;
              const double term = kBt[t / 4][i / 4] * x[size(((n * p.h + row) * p.w + column) * p.channels + c)] * kBt[t % 4][i % 4];
              sum += term, sizes += std::fabs(term);
            }
            v[size(c * 16 + t)] = sum, of_sizes[size(c * 16 + t)] = sizes;
          }
        for (int64_t o = 0; o < p.channels; o++) {
          double products[16] = {}, squared[16] = {};
          for (int64_t k = 0; k < width; k++)
            for (int t = 0; t < 16; t++) {
              const size_t from = size((o / width * width + k) * 16 + t);
              const double weight = u[size((o * width + k) * 16 + t)];
              products[t] += std::fabs(weight) * of_sizes[from], squared[t] += weight * v[from] * weight * v[from];
            }
          for (int64_t i = 0; i < 2 && ty + i < p.h; i++)
            for (int64_t j = 0; j < 2 && tx + j < p.w; j++)
              for (int t = 0; t < 16; t++) {
                const double factor = std::fabs(kAt[i][t / 4] * kAt[j][t % 4]);
                const size_t to = size(((n * p.h + ty + i) * p.w + tx + j) * p.channels + o);
                magnitude[to] += factor * products[t], squares[to] += factor * factor * squared[t];
              }
        }
      }
}
