// run_conv against double precision. Error bound, term by term: the sum of K products, bias and residual in float32, in
// whatever order, is off by at most gamma(K + 3) times the sum of the magnitudes (Higham, "Accuracy and Stability of
// Numerical Algorithms", chapter 3); a gate rounds each product of input and gate to the type in which the convolution
// computes; then the activation, and one rounding to the output's type. Pooled sums add up what the pixels may be off.
#include <cmath>

#include "check.h"
#include "cpu/ops.h"

namespace {

struct Case {
  int64_t images, channels, h, w, out_channels;
  int64_t kernel = 1, groups = 1, stride = 1, padding = 0;
  Activation activation = Activation::none;
  bool bias = true, residual = false, gate = false, pool = false;
  Scalar type = Scalar::f32;
  Layout x = Layout::nhwc, weight = Layout::nchw, shortcut = Layout::nhwc;
  int workers = 1;
  Forking forking = Forking::serial;
};

std::string describe(const Case& c) {
  char line[256];
  std::snprintf(line, sizeof line, "conv %s x %ldx%ldx%ldx%ld %s, weight %ld %s, kernel %ld stride %ld padding %ld groups %ld, %s%s%s%s%s, %d workers, %s",
                name(c.type), c.images, c.channels, c.h, c.w, name(c.x), c.out_channels, name(c.weight), c.kernel, c.stride, c.padding, c.groups,
                name(c.activation), c.bias ? ", bias" : "", c.gate ? ", gate" : "", c.residual ? ", residual " : "",
                c.residual ? name(c.shortcut) : "", c.workers, name(c.forking));
  return std::string(line) + (c.pool ? ", pool" : "");
}

void run(Report& report, Random& random, const Case& c) {
  const std::string label = describe(c);
  begin(report, label);
  const Window window{c.images, c.channels, c.h, c.w, c.out_channels, c.kernel, c.kernel, c.groups, c.stride, c.padding};
  const int64_t out_h = window.out_h(), out_w = window.out_w(), area = out_h * out_w, terms = window.terms();
  const Tensor x = random_tensor(random, c.type, c.images, c.channels, c.h, c.w, c.x);
  const Tensor weight = random_tensor(random, c.type, c.out_channels, window.group_in(), c.kernel, c.kernel, c.weight,
                                      1 / std::sqrt(static_cast<double>(terms)));
  const Tensor shortcut = random_tensor(random, c.type, c.residual ? c.images : 0, c.out_channels, out_h, out_w, c.shortcut);
  const Floats bias = random_floats(random, c.out_channels, 1), gate = random_floats(random, c.images * c.channels, 1);
  Guarded out(static_cast<size_t>(c.images * area * c.out_channels * scalar_bytes(c.type)));
  Guarded sums(static_cast<size_t>(c.images * c.out_channels) * 4);

  ConvArgs args{};
  args.x = x.view;
  const TensorView& w = weight.view;
  args.weight = {w.scalar, w.data, w.n, w.c, w.h, w.w, w.stride_n, w.stride_c, w.stride_h, w.stride_w};
  args.bias = c.bias ? bias.data() : nullptr;
  args.residual = c.residual ? &shortcut.view : nullptr;
  args.gate = c.gate ? gate.data() : nullptr;
  args.stride = c.stride, args.padding = c.padding, args.groups = c.groups;
  args.activation = c.activation;
  args.out = out.data();
  args.sums = c.pool ? sums.as<float>() : nullptr;
  args.out_h = out_h, args.out_w = out_w;
  run_conv(args, c.workers, make_fork(c.forking));

  Doubles input = x.values, y, bound, pooled(static_cast<size_t>(c.images * c.out_channels)), pooled_bound(pooled.size());
  if (c.gate)
    for (size_t i = 0; i < input.size(); i++)
      input[i] *= gate.values[static_cast<size_t>(static_cast<int64_t>(i) / (c.h * c.w * c.channels) * c.channels + static_cast<int64_t>(i) % c.channels)];
  convolve(window, input, weight.values, y, &bound);
  const double rounded_input = c.gate ? (c.type == Scalar::bf16 ? unit(Scalar::bf16) : kUnit) : 0;
  for (size_t i = 0; i < y.size(); i++) {
    const size_t o = i % static_cast<size_t>(c.out_channels), n = i / static_cast<size_t>(area * c.out_channels);
    double magnitude = bound[i], error = rounded_input * magnitude;
    if (c.bias) y[i] += bias.values[o], magnitude += std::fabs(bias.values[o]);
    if (c.residual) y[i] += shortcut.values[i], magnitude += std::fabs(shortcut.values[i]);
    error += gamma_of(static_cast<double>(terms + 3)) * (magnitude + error);
    y[i] = activate(y[i], c.activation);
    error = activation_slope(c.activation) * error + activation_error(y[i], c.activation);
    const size_t slot = n * static_cast<size_t>(c.out_channels) + o;
    pooled[slot] += y[i];
    pooled_bound[slot] += error + gamma_of(static_cast<double>(area + 2)) * (std::fabs(y[i]) + error);
    bound[i] = error + unit(c.type) * (c.type == Scalar::f32 ? 0 : std::fabs(y[i]) + error) + smallest(c.type) + 1e-35;
  }
  compare_bound(report, label, out.data(), c.type, y, bound);
  if (c.pool) compare_bound(report, label + " (sums)", sums.data(), Scalar::f32, pooled, pooled_bound);
}

// RegNet's layers and what is odd about them; each group width meets full, half and partial panels.
std::vector<Case> telling() {
  using S = Scalar;
  using L = Layout;
  constexpr auto relu = Activation::relu, silu = Activation::silu;
  return {
      {.images = 2, .channels = 3, .h = 13, .w = 10, .out_channels = 32, .kernel = 3, .stride = 2, .padding = 1, .activation = relu, .x = L::nchw},
      {.images = 1, .channels = 3, .h = 15, .w = 15, .out_channels = 10, .kernel = 7, .stride = 2, .padding = 3, .activation = silu, .type = S::bf16},
      {.images = 3, .channels = 3, .h = 9, .w = 7, .out_channels = 10, .kernel = 5, .padding = 2, .pool = true, .type = S::f16, .x = L::nchw},
      {.images = 3, .channels = 24, .h = 7, .w = 9, .out_channels = 56, .activation = relu, .residual = true, .pool = true, .workers = 3, .forking = Forking::threads},
      {.images = 2, .channels = 56, .h = 7, .w = 9, .out_channels = 152, .activation = silu, .residual = true, .gate = true, .workers = 2, .forking = Forking::reversed},
      {.images = 2, .channels = 57, .h = 7, .w = 9, .out_channels = 41, .residual = true, .gate = true, .pool = true, .shortcut = L::nchw},
      {.images = 3, .channels = 58, .h = 7, .w = 9, .out_channels = 41, .activation = relu, .residual = true, .gate = true, .pool = true, .type = S::bf16, .workers = 3, .forking = Forking::threads},
      {.images = 2, .channels = 58, .h = 9, .w = 7, .out_channels = 48, .activation = silu, .residual = true, .gate = true, .type = S::f16, .workers = 2},
      {.images = 2, .channels = 64, .h = 8, .w = 7, .out_channels = 80, .stride = 2, .bias = false, .gate = true, .type = S::bf16, .x = L::nhwc_odd, .shortcut = L::nhwc_odd},
      {.images = 2, .channels = 32, .h = 5, .w = 5, .out_channels = 24, .residual = true, .type = S::bf16, .x = L::nhwc_odd, .shortcut = L::nhwc_odd},
      {.images = 2, .channels = 40, .h = 6, .w = 6, .out_channels = 40, .kernel = 3, .groups = 5, .padding = 1, .activation = relu, .pool = true, .type = S::bf16, .workers = 2, .forking = Forking::threads},
      {.images = 2, .channels = 48, .h = 7, .w = 9, .out_channels = 48, .kernel = 3, .groups = 3, .stride = 2, .padding = 1, .activation = relu, .pool = true, .x = L::nhwc_slice, .weight = L::nhwc},
      {.images = 1, .channels = 72, .h = 14, .w = 14, .out_channels = 72, .kernel = 3, .groups = 3, .padding = 1, .activation = relu, .pool = true, .workers = 3, .forking = Forking::threads},
      {.images = 1, .channels = 72, .h = 14, .w = 14, .out_channels = 72, .kernel = 3, .groups = 3, .stride = 2, .padding = 1, .type = S::bf16, .weight = L::nhwc, .workers = 3, .forking = Forking::reversed},
      // narrow inputs to groups of outputs that would suit the pairs
      {.images = 2, .channels = 4, .h = 2, .w = 8, .out_channels = 80, .kernel = 3, .groups = 2, .padding = 1, .activation = relu},
      {.images = 1, .channels = 12, .h = 5, .w = 4, .out_channels = 24, .kernel = 3, .groups = 3, .padding = 1, .pool = true},
      {.images = 2, .channels = 80, .h = 7, .w = 9, .out_channels = 80, .kernel = 3, .groups = 2, .padding = 1, .activation = silu, .type = S::bf16, .x = L::nwch_spaced},
      {.images = 2, .channels = 112, .h = 7, .w = 7, .out_channels = 112, .kernel = 3, .groups = 2, .padding = 1, .pool = true, .x = L::expanded},
      {.images = 1, .channels = 240, .h = 5, .w = 5, .out_channels = 240, .kernel = 3, .groups = 2, .stride = 2, .padding = 1, .type = S::bf16},
      {.images = 1, .channels = 232, .h = 4, .w = 3, .out_channels = 232, .kernel = 3, .padding = 1, .activation = relu, .residual = true, .workers = 2, .forking = Forking::threads},
      {.images = 1, .channels = 464, .h = 3, .w = 3, .out_channels = 464, .kernel = 3, .groups = 2, .padding = 1, .type = S::bf16, .workers = 2, .forking = Forking::threads},
      {.images = 1, .channels = 9, .h = 6, .w = 5, .out_channels = 30, .kernel = 3, .groups = 3, .padding = 1, .pool = true, .type = S::bf16},
      {.images = 2, .channels = 6, .h = 1, .w = 1, .out_channels = 3, .kernel = 3, .groups = 3, .padding = 1, .activation = silu, .gate = true, .pool = true},
      {.images = 2, .channels = 5, .h = 1, .w = 1, .out_channels = 1, .padding = 1, .activation = relu, .pool = true, .type = S::f16, .workers = 3},
      {.images = 3, .channels = 16, .h = 1, .w = 1, .out_channels = 1000, .type = S::bf16, .workers = 3, .forking = Forking::threads},
      {.images = 0, .channels = 16, .h = 4, .w = 4, .out_channels = 8, .gate = true, .pool = true, .workers = 2},
      {.images = 2, .channels = 8, .h = 0, .w = 4, .out_channels = 8, .padding = 1, .pool = true},
      {.images = 2, .channels = 8, .h = 0, .w = 4, .out_channels = 8, .pool = true},
      {.images = 1, .channels = 16, .h = 61, .w = 53, .out_channels = 56, .activation = relu, .pool = true, .workers = 3, .forking = Forking::threads},
  };
}

Case any(Random& random) {
  Case c{};
  const int64_t width = random.pick<int64_t>({1, 2, 3, 8, 10, 16, 24, 40, 56, 120});
  c.groups = random.chance(0.5) ? 1 : 1 + random.below(width > 40 ? 2 : 4);
  c.channels = c.groups * width;
  c.out_channels = c.groups * random.pick<int64_t>({1, 5, 8, 10, 16, 17, 24, 40, 56, 72, 120});
  c.kernel = random.pick<int64_t>({1, 1, 3, 3, 5, 7});
  c.padding = random.chance(0.7) ? c.kernel / 2 : random.below(c.kernel + 1);
  c.stride = 1 + random.below(2);
  const int64_t least = std::max<int64_t>(1, c.kernel - 2 * c.padding), spread = width * c.kernel > 200 ? 4 : 10;
  c.images = random.below(4), c.h = least + random.below(spread), c.w = least + random.below(spread);
  c.activation = static_cast<Activation>(random.below(3));
  c.bias = random.chance(0.8), c.residual = random.chance(0.4), c.gate = random.chance(0.3), c.pool = random.chance(0.4);
  c.type = random.pick({Scalar::f32, Scalar::f16, Scalar::bf16});
  c.x = static_cast<Layout>(random.below(kLayouts)), c.weight = static_cast<Layout>(random.below(kLayouts)), c.shortcut = static_cast<Layout>(random.below(kLayouts));
  c.workers = 1 + static_cast<int>(random.below(3));
  c.forking = static_cast<Forking>(random.below(3));
  return c;
}

// A NaN in one pixel must reach all outputs that read it, through every activation, and no other.
void keeps_nan(Report& report, Random& random, Activation activation) {
  begin(report, std::string("conv with a NaN, ") + name(activation));
  const int64_t channels = 24, h = 6, w = 7, out_channels = 41;
  std::vector<float> x(static_cast<size_t>(channels * h * w)), weight(static_cast<size_t>(out_channels * channels * 9)), y(static_cast<size_t>(out_channels * h * w));
  for (float& v : x) v = static_cast<float>(random.normal());
  for (float& v : weight) v = static_cast<float>(random.normal());
  x[static_cast<size_t>((2 * w + 3) * channels + 5)] = NAN;
  ConvArgs args{};
  args.x = {Scalar::f32, x.data(), 1, channels, h, w, h * w * channels, 1, w * channels, channels};
  args.weight = {Scalar::f32, weight.data(), out_channels, channels, 3, 3, channels * 9, 9, 3, 1};
  args.stride = args.padding = args.groups = 1;
  args.activation = activation;
  args.out = y.data(), args.out_h = h, args.out_w = w;
  run_conv(args, 1, make_fork(Forking::serial));
  int64_t wrong = 0;
  for (int64_t i = 0; i < h * w * out_channels; i++) {
    const int64_t row = i / out_channels / w, column = i / out_channels % w;
    wrong += std::isnan(y[static_cast<size_t>(i)]) != (row >= 1 && row <= 3 && column >= 2 && column <= 4);
  }
  if (wrong) fail(report, "a NaN is lost or spread: " + std::to_string(wrong) + " outputs");
}

}  // namespace

void conv_cases(Report& report, Random& random, int random_cases) {
  for (const Case& c : telling()) run(report, random, c);
  for (int i = 0; i < random_cases; i++) run(report, random, any(random));
  for (const Activation a : {Activation::none, Activation::relu, Activation::silu}) keeps_nan(report, random, a);
}
