// Random tensors of any type and strides, and what their elements are worth.
#pragma once
#include <cstdint>
#include <vector>

#include "cpu/tensor_view.h"
#include "guarded.h"

using namespace regnet_kernels::cpu;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next();  // 64 random bits
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  bool chance(double p) { return uniform() < p; }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double normal();
  template <class T>
  T pick(std::initializer_list<T> from) { return from.begin()[below(static_cast<int64_t>(from.size()))]; }

 private:
  uint64_t state_;
};

// Largest relative error of rounding to a type, and the largest absolute one of a denormal.
double unit(Scalar s);
double smallest(Scalar s);
inline constexpr double kUnit = 0x1p-24;  // float32

double round_to(Scalar s, double v);           // nearest, ties to even
void put(void* data, Scalar s, int64_t i, double v);  // rounds
double get(const void* data, Scalar s, int64_t i);

enum class Layout { nhwc, nchw, nhwc_slice, nwch_spaced, expanded, nhwc_odd };
inline constexpr int kLayouts = 6;
const char* name(Layout layout);
const char* name(Scalar s);

struct Tensor {
  Guarded memory;
  TensorView view{};
  std::vector<double> values;  // dense NHWC, as rounded
};
// Normal values times `scale`; the memory is read-only afterwards, gaps hold NaN. wild: every pixel times a power of ten of its own, from 1e-6 to
// 1e6, one in eight times 0.
Tensor random_tensor(Random& random, Scalar s, int64_t n, int64_t c, int64_t h, int64_t w, Layout layout, double scale = 1, bool wild = false);

struct Floats {
  Guarded memory;
  std::vector<double> values;
  const float* data() const { return memory.as<const float>(); }
};
Floats random_floats(Random& random, int64_t count, double scale);
