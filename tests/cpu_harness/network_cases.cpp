// Packed networks against double precision. A proven bound would grow with every layer until it forgives everything, so here
// each rounding counts as an independent error: a rounding to bfloat16 or float16 with the variance of a uniform error, a
// float32 sum of K terms with K (u sum |x| |w|)^2, and variances go through the layers by w^2 (Higham and Mary, "A new
// approach to probabilistic rounding error analysis", 2019). Where errors share a cause (the pixels of a mean) their
// deviations add up. What is left must look like it: compare_sigma has the limits.
//
// Every network runs alone, and under two forks, by turns of two and of three workers; runs with equally many workers must agree to the bit.
#include <atomic>
#include <cmath>

#include "check.h"
#include "cpu/isa.h"
#include "cpu/network.h"
#include "cpu/plan_cache.h"
#include "packed.h"

namespace {

double square(double v) { return v * v; }

struct Map {
  int64_t images, channels, h, w;
  Doubles v, variance;
};

void round_values(Map& m, Scalar type) {
  if (type == Scalar::f32) return;
  for (size_t i = 0; i < m.v.size(); i++) m.variance[i] += square(unit(type) * m.v[i]) / 3 + square(smallest(type));
}

void finish(Map& m, const Doubles& magnitude, const Doubles& bias, int64_t terms, Activation activation) {
  for (size_t i = 0; i < m.v.size(); i++) {
    const double b = bias[i % bias.size()];
    m.v[i] += b;
    m.variance[i] += static_cast<double>(terms + 3) * square(kUnit * (magnitude[i] + std::fabs(b)));
    if (activation == Activation::relu && square(m.v[i]) > 64 * m.variance[i] && m.v[i] < 0) m.variance[i] = 0;  // far from the bend
    m.v[i] = activate(m.v[i], activation);
    m.variance[i] = square(activation_slope(activation)) * m.variance[i] + square(activation_error(m.v[i], activation));
  }
}

Map convolved(const Map& x, const Window& p, const Doubles& weights, Doubles& magnitude) {
  Map y{p.images, p.out_channels, p.out_h(), p.out_w(), {}, {}};
  convolve(p, x.v, weights, y.v, &magnitude, &x.variance, &y.variance);
  return y;
}

Map conv(const Map& x, const Layer& l, Scalar type) {
  Doubles magnitude;
  const Window p{x.images, x.channels, x.h, x.w, l.c_out, l.kernel, l.kernel, l.c_in / l.group_width, l.stride, l.padding};
  Map y = convolved(x, p, l.b, magnitude);
  finish(y, magnitude, l.b_bias, p.terms(), l.activation);
  round_values(y, type);
  return y;
}

// sigmoid(w2 relu(w1 mean + b1) + b2) for each image, with deviations
Map gate_of(const Map& t, const Layer& l) {
  const int64_t area = t.h * t.w, channels = t.channels;
  Map gate{t.images, channels, 1, 1, Doubles(static_cast<size_t>(t.images * channels)), Doubles(static_cast<size_t>(t.images * channels))};
  for (int64_t n = 0; n < t.images; n++) {
    Doubles mean(static_cast<size_t>(channels)), deviation(mean.size()), hidden, hidden_variance;
    for (int64_t i = 0; i < area * channels; i++) {
      const size_t from = static_cast<size_t>(n * area * channels + i), c = static_cast<size_t>(i % channels);
      mean[c] += t.v[from] / static_cast<double>(area);
      deviation[c] += (std::sqrt(t.variance[from]) + 4 * kUnit * std::fabs(t.v[from])) / static_cast<double>(area);
    }
    for (int64_t s = 0; s < l.squeeze; s++) {
      double sum = l.se_b1[static_cast<size_t>(s)], magnitude = std::fabs(sum), variance = 0;
      for (size_t c = 0; c < mean.size(); c++) {
        const double weight = l.se_w1[static_cast<size_t>(s * channels) + c];
        sum += weight * mean[c], magnitude += std::fabs(weight * mean[c]), variance += square(weight * deviation[c]);
      }
      hidden.push_back(std::max(sum, 0.0));
      hidden_variance.push_back(variance + static_cast<double>(channels) * square(kUnit * magnitude));
    }
    for (int64_t c = 0; c < channels; c++) {
      double sum = l.se_b2[static_cast<size_t>(c)], magnitude = std::fabs(sum), variance = 0;
      for (size_t s = 0; s < hidden.size(); s++) {
        const double weight = l.se_w2[static_cast<size_t>(c) * hidden.size() + s];
        sum += weight * hidden[s], magnitude += std::fabs(weight * hidden[s]), variance += square(weight) * hidden_variance[s];
      }
      const size_t at = static_cast<size_t>(n * channels + c);
      const double g = 1 / (1 + std::exp(-sum));
      gate.v[at] = g;
      gate.variance[at] = (variance + static_cast<double>(l.squeeze) * square(kUnit * magnitude)) / 16 + square(10 * kUnit * g);
    }
  }
  return gate;
}

// Adds to the magnitudes of a 1x1 what they may be larger by where it goes by pairs; whether it does is for the kernels to say.
void add_pair_excess(const Doubles& x, const Doubles& weights, int64_t k, Doubles& magnitude) {
  Doubles excess;
  pair_excess(x, weights, k, excess);
  for (size_t i = 0; i < excess.size(); i++) magnitude[i] += excess[i];
}

// The pixels that a convolution of one pixel reads with a stride.
Doubles strided(const Map& x, int64_t stride) {
  Doubles out;
  for (int64_t n = 0; n < x.images; n++)
    for (int64_t h = 0; h < x.h; h += stride)
      for (int64_t w = 0; w < x.w; w += stride) {
        const auto at = x.v.begin() + ((n * x.h + h) * x.w + w) * x.channels;
        out.insert(out.end(), at, at + x.channels);
      }
  return out;
}

Map block(const Map& x, const Layer& l, Scalar type) {
  Doubles magnitude;
  Map t = convolved(x, {x.images, x.channels, x.h, x.w, l.c_mid, 1, 1, 1, 1, 0}, l.a, magnitude);
  if (l.pairs) add_pair_excess(x.v, l.a, l.c_in, magnitude);
  finish(t, magnitude, l.a_bias, l.c_in + 8 * l.pairs, l.activation);
  round_values(t, type);
  const Window p{x.images, l.c_mid, x.h, x.w, l.c_mid, 3, 3, l.c_mid / l.group_width, l.stride, 1};
  Map m = convolved(t, p, l.b, magnitude);
  if (l.winograd && type == Scalar::bf16) {  // whether it is used or not is for the kernels to say
    Doubles squares;
    winograd_bf16_magnitude(p, t.v, l.b, magnitude, squares);
    for (size_t i = 0; i < squares.size(); i++) m.variance[i] += 2 * square(unit(type)) / 3 * squares[i];  // transformed input and weights are rounded
  } else if (l.winograd) {
    (l.stride == 2 ? winograd_strided_magnitude : winograd_magnitude)(p, t.v, l.b, magnitude);
  }
  finish(m, magnitude, l.b_bias, p.terms() + 42, l.activation);
  if (l.squeeze) {
    const Map gate = gate_of(m, l);
    round_values(m, type);
    for (size_t i = 0; i < m.v.size(); i++) {
      const size_t at = i / static_cast<size_t>(m.h * m.w * l.c_mid) * static_cast<size_t>(l.c_mid) + i % static_cast<size_t>(l.c_mid);
      m.variance[i] = square(gate.v[at]) * m.variance[i] + square(m.v[i]) * gate.variance[at];
      m.v[i] *= gate.v[at];
      m.variance[i] += square(kUnit * m.v[i]);
    }
  }
  round_values(m, type);
  Map y = convolved(m, {m.images, l.c_mid, m.h, m.w, l.c_out, 1, 1, 1, 1, 0}, l.c, magnitude);
  Doubles size;
  const Map shortcut = l.projection ? convolved(x, {x.images, x.channels, x.h, x.w, l.c_out, 1, 1, 1, l.stride, 0}, l.shortcut, size) : x;
  for (size_t i = 0; i < y.v.size(); i++) {
    magnitude[i] += l.projection ? size[i] : std::fabs(x.v[i]);
    y.v[i] += shortcut.v[i], y.variance[i] += shortcut.variance[i];
  }
  if (l.pairs) {
    Doubles source;  // in the order in which it is packed
    for (int64_t i = 0; i < m.images * m.h * m.w; i++)
      for (const int64_t c : l.order) source.push_back(m.v[static_cast<size_t>(i * l.c_mid + c)]);
    add_pair_excess(source, l.c_ordered, l.c_mid, magnitude);
    if (l.projection) add_pair_excess(strided(x, l.stride), l.shortcut, l.c_in, magnitude);
  }
  finish(y, magnitude, l.c_bias, l.c_mid + l.c_in + 8 * l.pairs * (1 + l.projection), l.activation);
  round_values(y, type);
  return y;
}

Map head(const Map& x, const Layer& l, Scalar type) {
  Map mean{x.images, x.channels, 1, 1, Doubles(static_cast<size_t>(x.images * x.channels)), Doubles(static_cast<size_t>(x.images * x.channels))};
  for (size_t i = 0; i < x.v.size(); i++) {
    const size_t area = static_cast<size_t>(x.h * x.w), c = static_cast<size_t>(x.channels), at = i / (area * c) * c + i % c;
    mean.v[at] += x.v[i] / static_cast<double>(area);
    mean.variance[at] += (std::sqrt(x.variance[i]) + 4 * kUnit * std::fabs(x.v[i])) / static_cast<double>(area);
  }
  for (double& v : mean.variance) v *= v;
  round_values(mean, type);
  if (l.c_out == 0) return mean;
  Doubles magnitude;
  Map y = convolved(mean, {x.images, x.channels, 1, 1, l.c_out, 1, 1, 1, 1, 0}, l.c, magnitude);
  finish(y, magnitude, l.c_bias, l.c_in, Activation::none);
  round_values(y, type);
  return y;
}

void call_network(const Network& network, const Tensor& x, void* out, int workers, Forking forking) {
  const PackedProgram program{network.program.data(), static_cast<int64_t>(network.program.size()), network.weights_count, network.params_count};
  NetworkCall(x.view, network.type, program, workers).run(network.weights.data(), network.params.as<const float>(), out, make_fork(forking));
}

// Any choices for the layers of a network, also such as no tuner would make.
void choose_anything(Random& random, const Network& network, const Tensor& x, int workers) {
  const PackedProgram program{network.program.data(), static_cast<int64_t>(network.program.size()), network.weights_count, network.params_count};
  std::vector<int64_t> rows;
  for (const LayerMade& layer : NetworkCall(x.view, network.type, program, workers).layers()) {
    rows.insert(rows.end(), layer.key.begin(), layer.key.end());
    rows.push_back(random.below(4)), rows.push_back(random.below(3));
    for (int cut = 0; cut < 3; cut++) rows.push_back(random.below(2) * (1 + random.below(300))), rows.push_back(random.below(6)), rows.push_back(random.below(3));
  }
  set_choices(std::make_shared<Choices>(rows.data(), static_cast<int64_t>(rows.size())));
}

struct Way {
  int workers;
  Forking forking;
};
constexpr Way kWays[2][3] = {{{1, Forking::serial}, {2, Forking::threads}, {2, Forking::reversed}},
                             {{1, Forking::serial}, {3, Forking::threads}, {3, Forking::serial}}};

// Do those go by pairs that should, and no others?
void check_pairs(Report& report, const std::string& label, const Network& network, const Tensor& x, int workers) {
  const PackedProgram program{network.program.data(), static_cast<int64_t>(network.program.size()), network.weights_count, network.params_count};
  const NetworkCall call(x.view, network.type, program, workers);
  const bool allowed = kernels().pairs && pairs_allowed();
  for (size_t i = 0; i < call.layers().size(); i++) {
    const Layer& l = network.layers[i];
    if (l.kind != StepKind::block) continue;
    const LayerMade& made = call.layers()[i];
    const auto check = [&](const char* which, const CutMade& cut, int64_t channels, int64_t outputs, int64_t area, bool may = true) {
      const bool large = channels >= 96 && outputs >= 64 && channels * outputs >= 9'000 && std::min(made.group, x.view.n) * area >= 20;
      const bool want = allowed && l.pairs && large && may, got = cut.pairs == 2;
      if (got != want) fail(report, label + ": 1x1 " + which + " of step " + std::to_string(i) + (got ? " goes" : " does not go") + " by pairs");
    };
    const int64_t in_h = made.key[12], in_w = made.key[13], out_h = (in_h - 1) / l.stride + 1, out_w = (in_w - 1) / l.stride + 1;
    check("a", made.a, l.c_in, l.c_mid, in_h * in_w);
    check("c", made.c, l.c_mid, l.c_out, out_h * out_w, !l.projection || l.c_in >= 64);
  }
}

void run(Report& report, Random& random, Scalar type, int64_t images, int64_t h, int64_t w, Layout layout, std::vector<Layer> layers, bool wild = false) {
  const Network network = pack(random, type == Scalar::bf16 ? Type::bf16 : Type::f32, std::move(layers));
  char start[120];
  std::snprintf(start, sizeof start, "network %s %ldx%ldx%ld %s", name(type), images, h, w, name(layout));
  const std::string label = start + std::string(wild ? " wild" : "") + describe(network);
  begin(report, label);
  const Tensor x = random_tensor(random, type, images, network.layers[0].c_in, h, w, layout, 1, wild);
  const Shape shape = network_output(network.parse(), network.layers[0].c_in, h, w);

  const Scalar between = type == Scalar::bf16 ? Scalar::bf16 : Scalar::f32;  // float16 is computed as float32
  Map want{images, network.layers[0].c_in, h, w, x.values, Doubles(x.values.size())};
  for (const Layer& l : network.layers)
    want = l.kind == StepKind::conv ? conv(want, l, between) : l.kind == StepKind::block ? block(want, l, between) : head(want, l, between);
  if (type == Scalar::f16) round_values(want, type);
  Doubles sigma;
  for (const double v : want.variance) sigma.push_back(std::sqrt(v) + 1e-9);
  if (images * shape.c * shape.h * shape.w != static_cast<int64_t>(want.v.size())) return fail(report, label + ": network_output says another shape");

  for (const int workers : {1, 3}) check_pairs(report, label, network, x, workers);
  std::vector<char> before;
  int workers_before = 0;
  const int failures = report.failures;
  for (const Way& way : kWays[report.cases % 2]) {
    if (report.failures != failures) return;
    Guarded out(want.v.size() * static_cast<size_t>(scalar_bytes(type)));
    call_network(network, x, out.data(), way.workers, way.forking);
    const std::string which = label + " (" + std::to_string(way.workers) + " workers, " + name(way.forking) + ")";
    compare_sigma(report, which, out.data(), type, want.v, sigma);
    const std::vector<char> now(out.data(), out.data() + out.bytes());
    if (way.workers == workers_before && now != before) fail(report, which + ": not the bits of the run before, with as many workers");
    before = now, workers_before = way.workers;
  }
  Guarded out(want.v.size() * static_cast<size_t>(scalar_bytes(type)));
  choose_anything(random, network, x, workers_before);
  call_network(network, x, out.data(), workers_before, Forking::serial);
  compare_sigma(report, label + " (random choices)", out.data(), type, want.v, sigma);
  set_choices(std::make_shared<Choices>(nullptr, 0));
}

// Callers of one network and of another, which needs more memory, share the pool of working memory and nothing else. Each calls
// both by turns, so that a block goes from one to the other; every result has the bits that the same call had alone.
void callers_at_once(Report& report, Random& random) {
  begin(report, "two networks, four callers at once");
  const Network networks[] = {
      pack(random, Type::f32, {conv_layer(3, 8, 3, 2), block_layer(8, 16, 16, 8, {1, 4, true}), head_layer(16, 10)}),
      pack(random, Type::f32, {conv_layer(3, 16, 3, 1), block_layer(16, 24, 24, 24, {2, 8}), block_layer(24, 24, 24, 8, {1, 8, true}), head_layer(24, 10)})};
  const Tensor x = random_tensor(random, Scalar::f32, 2, 3, 17, 17, Layout::nchw);
  const auto call = [&](size_t which) {
    std::vector<float> out(20, NAN);
    call_network(networks[which], x, out.data(), 2, Forking::threads);
    return out;
  };
  const std::vector<std::vector<float>> alone = {call(0), call(1)};
  std::atomic<int> wrong{0};
  make_fork(Forking::threads)(4, [&](int caller) {
    for (int turn = 0; turn < 4; turn++) {
      const size_t which = static_cast<size_t>(caller + turn) % 2;
      if (call(which) != alone[which]) wrong++;
    }
  });
  if (wrong) fail(report, std::to_string(wrong) + " of 16 calls at once gave other bits than alone");
}

std::vector<Layer> any(Random& random, Scalar type) {
  std::vector<Layer> layers;
  const auto activation = random.chance(0.7) ? Activation::relu : Activation::silu;
  int64_t channels = random.pick<int64_t>({4, 8, 16, 24});
  if (random.chance(0.7)) {
    const int64_t planes = random.pick<int64_t>({1, 3});
    layers.push_back(conv_layer(planes, channels, random.pick<int64_t>({1, 3, 5}), 1 + random.below(2), 1, activation));
  }
  for (int64_t blocks = 1 + random.below(4); blocks > 0; blocks--) {
    const int64_t width = random.pick<int64_t>({2, 4, 8, 8, 16, 24, 40}), middle = width * (1 + random.below(3));
    const bool wider = random.chance(0.5);
    const int64_t out = wider ? 2 * (1 + random.below(36)) : channels;
    const int64_t stride = wider ? 1 + random.below(2) : 1;
    const bool fast = (stride == 1 || type != Scalar::bf16) && width % 8 == 0 && random.chance(0.7);
    const int64_t squeeze = random.chance(0.5) ? 1 + random.below(12) : 0;
    layers.push_back(block_layer(channels, middle, out, width, {stride, squeeze, fast, activation, random.chance(0.7)}, random.chance(0.2)));
    channels = out;
  }
  if (random.chance(0.6)) layers.push_back(head_layer(channels, random.chance(0.2) ? 0 : 1 + random.below(40)));
  return layers;
}

// A block or two that are large enough for pairs, of any shape.
std::vector<Layer> any_by_pairs(Random& random) {
  std::vector<Layer> layers;
  const auto activation = random.chance(0.7) ? Activation::relu : Activation::silu;
  int64_t channels = 96 + random.below(120);
  for (int64_t blocks = 1 + random.below(2); blocks > 0; blocks--) {
    const int64_t width = random.pick<int64_t>({8, 24, 40, 56, 112}), middle = width * (208 / width + 1 + random.below(2));
    const bool wider = random.chance(0.5);
    const int64_t out = wider ? 64 + random.below(200) : channels, stride = wider ? 1 + random.below(2) : 1;
    layers.push_back(block_layer(channels, middle, out, width, {stride, random.chance(0.5) ? 1 + random.below(12) : 0, random.chance(0.5), activation, true}, random.chance(0.2)));
    channels = out;
  }
  return layers;
}

// 1x1's by pairs: pixels of all sizes and of zeros alone, one batch after the other, maps that are cut into tasks of many pixels and of few.
void pair_cases(Report& report, Random& random, int random_cases) {
  const auto go = [&](int64_t images, int64_t h, int64_t w, std::vector<Layer> layers, Layout layout = Layout::nhwc) {
    for (const bool wild : {false, true}) run(report, random, Scalar::f32, images, h, w, layout, layers, wild);
  };
  const BlockShape plain{1, 0, false, Activation::relu, true};
  // runs alone: 144 = 3 x 48; a half panel of outputs: 168 = 10 x 16 + 8; c: 168 = 3 x 48 + 24
  go(1, 7, 9, {block_layer(144, 168, 144, 24, plain)});
  // one run of 24 and channels that go plainly: 100 = 2 x 48 + 4, 200 = 4 x 48 + 8, 124 = 2 x 48 + 24 + 4; outputs that are no multiple of 8
  go(2, 5, 9, {block_layer(100, 200, 100, 40, plain), block_layer(100, 208, 124, 16, {1, 0, true, Activation::silu, true}), block_layer(124, 208, 65, 104, plain)});
  // an odd number of panels, 13 and 5; two sources, whose border is within a run: 208 + 100; strides; sums, and with them a gate
  go(3, 11, 8, {block_layer(100, 208, 68, 8, {2, 6, true, Activation::relu, true}), block_layer(68, 304, 68, 16, {1, 8, false, Activation::silu, true}, true)});
  // 7 runs in one chain and 9 in two; one of them of 4 with a run of 24, one with 4 runs and 47 other channels
  go(1, 6, 5, {block_layer(336, 64, 336, 64, plain), block_layer(336, 432, 456, 48, {1, 5, true, Activation::relu, true})});
  go(2, 3, 4, {block_layer(479, 112, 70, 56, {1, 0, false, Activation::relu, true})});
  // a projection with too few channels for pairs, with just enough, and one whose sizes are those of a wide network
  go(1, 9, 8, {block_layer(40, 208, 80, 8, {2, 4, true, Activation::relu, true}), block_layer(80, 160, 72, 40, {1, 0, true, Activation::silu, true}, true)});
  go(2, 8, 7, {block_layer(336, 112, 420, 56, {2, 9, true, Activation::relu, true})});
  // 17 runs in three chains, then 24 + 10; many outputs for few pixels, so that tasks are runs of panels, of one panel as well
  go(1, 5, 4, {block_layer(850, 24 * 9, 850, 24, {1, 8, true, Activation::relu, true})});
  // a map that is worth several tasks of many pixels, in one group of images and in several; whole maps are multiplied by the gate
  go(1, 37, 31, {block_layer(168, 128, 168, 8, {1, 10, true, Activation::relu, true})}, Layout::nchw);
  go(2, 29, 28, {block_layer(120, 176, 120, 16, {2, 4, false, Activation::relu, true})});
  // strips, with few weights: 96 to 216 and more pixels than L2 holds
  go(1, 96, 40, {block_layer(96, 216, 64, 8, {2, 0, false, Activation::relu, true})});
  for (const int64_t pixels : {19, 20, 21}) go(1, 1, pixels, {block_layer(160, 128, 160, 16, plain)});  // too few, and just enough
  for (int i = 0; i < random_cases; i++) {
    const Scalar type = random.pick({Scalar::f32, Scalar::f32, Scalar::f16});
    run(report, random, type, 1 + random.below(3), 3 + random.below(9), 3 + random.below(9), static_cast<Layout>(random.below(kLayouts)), any_by_pairs(random),
        type == Scalar::f32 && random.chance(0.5));  // float16 holds no pixel of 1e6
  }
}

}  // namespace

void network_cases(Report& report, Random& random, int random_cases) {
  const auto go = [&](Scalar type, int64_t images, int64_t h, int64_t w, Layout layout, std::vector<Layer> layers) {
    run(report, random, type, images, h, w, layout, std::move(layers));
  };
  // several groups of images: 2 + 1 on the first maps, all on the later ones; with and without Winograd
  for (const bool fast : {true, false})
    go(Scalar::f32, 3, 40, 40, Layout::nchw,
       {conv_layer(3, 16, 3, 2), block_layer(16, 24, 24, 8, {1, 8, fast}), block_layer(24, 24, 24, 24, {1, 0, fast}), block_layer(24, 48, 48, 24, {2, 10}),
        block_layer(48, 48, 48, 24, {1, 10, fast}), head_layer(48, 10)});
  // groups that go together and one that is left over
  for (const bool fast : {true, false})
    go(Scalar::bf16, 3, 40, 38, Layout::nchw,
       {conv_layer(3, 16, 3, 2), block_layer(16, 24, 24, 8, {1, 8, fast}), block_layer(24, 48, 48, 24, {2, 10}), block_layer(48, 72, 48, 24, {1, 10, fast}),
        block_layer(48, 48, 48, 16, {1, 0, fast, Activation::silu}), head_layer(48, 10)});
  go(Scalar::f16, 3, 40, 38, Layout::nhwc, {conv_layer(3, 16, 3, 2), block_layer(16, 24, 24, 8, {1, 8, true}), block_layer(24, 24, 24, 8, {1, 8, true})});
  // maps that grow while images go through one at a time, buffers used in turn, and then a step that takes all of them
  for (const Scalar type : {Scalar::f32, Scalar::bf16})
    go(type, 3, 28, 28, Layout::nchw, {conv_layer(3, 4, 3, 1), block_layer(4, 8, 8, 8), block_layer(8, 8, 24, 8), head_layer(24, 10)});
  // no stem: every layout of the input
  for (int i = 0; i < kLayouts; i++)
    go(i % 2 ? Scalar::bf16 : Scalar::f32, 2, 7, 9, static_cast<Layout>(i), {block_layer(24, 16, 24, 8, {1, 3, i % 2 == 0}), block_layer(24, 24, 24, 24)});
  go(Scalar::f16, 5, 9, 7, Layout::nchw, {block_layer(24, 16, 24, 8, {1, 3, true}), block_layer(24, 24, 56, 24, {2})});
  // wide groups; the largest squeeze width; more channels than tiles
  go(Scalar::f32, 2, 9, 8, Layout::nhwc, {block_layer(16, 112, 56, 56, {2, 42}), block_layer(56, 56, 56, 56, {1, 42, true}), block_layer(56, 120, 120, 120), head_layer(120, 33)});
  go(Scalar::bf16, 1, 4, 4, Layout::nhwc, {block_layer(16, 232, 40, 232), block_layer(40, 40, 40, 40, {1, 10}), head_layer(40, 1000)});
  // maps that go in strips through a block, with its sums, and of stride 1 with two rows in both strips
  go(Scalar::f32, 1, 97, 83, Layout::nhwc, {block_layer(8, 48, 16, 8, {2, 6}), block_layer(16, 64, 16, 16, {2})});
  go(Scalar::f32, 1, 97, 83, Layout::nhwc, {block_layer(8, 80, 16, 40, {2, 6, true}), block_layer(16, 96, 16, 96, {2, 0, true})});
  go(Scalar::f32, 6, 29, 28, Layout::nhwc, {block_layer(8, 96, 16, 48, {2, 6, true}), block_layer(16, 120, 16, 120, {2, 8, true})});
  go(Scalar::f32, 1, 66, 51, Layout::nchw, {block_layer(8, 80, 8, 8), block_layer(8, 80, 8, 8, {1, 4, true})});
  go(Scalar::bf16, 1, 97, 83, Layout::nhwc, {block_layer(8, 80, 16, 8, {2, 6})});
  // a convolution between blocks, grouped; a 1x1 map; SiLU; a projection that the shapes do not need
  for (const Scalar type : {Scalar::f32, Scalar::bf16})
    go(type, 4, 6, 5, Layout::nchw, {conv_layer(3, 10, 5, 2, 1, Activation::silu), block_layer(10, 16, 10, 8, {1, 4, false, Activation::silu}, true),
                                     conv_layer(10, 20, 3, 2, 5, Activation::none), block_layer(20, 16, 20, 16, {2, 0, false, Activation::silu}), head_layer(20, 0)});
  go(Scalar::f32, 1, 1, 1, Layout::nhwc, {block_layer(8, 8, 8, 8, {1, 8, true}), block_layer(8, 24, 8, 24, {1, 0, true}), head_layer(8, 5)});
  go(Scalar::f32, 3, 6, 5, Layout::expanded, {head_layer(10, 0)});
  go(Scalar::bf16, 3, 6, 5, Layout::nhwc_odd, {head_layer(10, 17)});
  go(Scalar::f32, 0, 6, 5, Layout::nchw, {conv_layer(3, 8, 3, 2), head_layer(8, 17)});
  callers_at_once(report, random);
  pair_cases(report, random, random_cases / 3);
  for (int i = 0; i < random_cases; i++) {
    const Scalar type = random.pick({Scalar::f32, Scalar::f32, Scalar::bf16, Scalar::f16});
    go(type, 1 + random.below(4), 1 + random.below(20), 1 + random.below(20), static_cast<Layout>(random.below(kLayouts)), any(random, type));
  }
}
