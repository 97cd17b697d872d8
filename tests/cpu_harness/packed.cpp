#include "packed.h"

#include <cmath>

#include "check.h"

// Written out again, not taken from the sources: the format is what the tests check.
void add_panels(std::vector<double>& values, Scalar type, const double* matrix, int64_t rows, int64_t k) {
  const int64_t pair = type == Scalar::bf16 ? 2 : 1;
  for (int64_t first = 0; first < rows; first += 16) {
    const int64_t lanes = rows - first > 8 ? 16 : 8;
    for (int64_t step = 0; step < k; step += pair)
      for (int64_t lane = 0; lane < lanes; lane++)
        for (int64_t i = step; i < step + pair; i++) values.push_back(first + lane < rows && i < k ? matrix[(first + lane) * k + i] : 0);
  }
}

void add_pairs(std::vector<double>& values, Scalar type, const double* matrix, int64_t rows, int64_t k) {
  const int64_t pair = type == Scalar::bf16 ? 4 : 2;
  for (int64_t first = 0; first < rows; first += 8)
    for (int64_t step = 0; step < k; step += pair)
      for (int64_t lane = 0; lane < 8; lane++)
        for (int64_t i = step; i < step + pair; i++) values.push_back(matrix[(first + lane) * k + i]);
}

namespace {

struct Blob {
  Scalar type;
  size_t unit;
  std::vector<double> values{};

  void align() { values.resize((values.size() + unit - 1) / unit * unit); }
  void panels(const double* matrix, int64_t rows, int64_t k) { add_panels(values, type, matrix, rows, k); }
  void pairs(const double* matrix, int64_t rows, int64_t k) { add_pairs(values, type, matrix, rows, k); }
  void section(const std::vector<double>& matrices, int64_t count, int64_t rows, int64_t k) {
    for (int64_t i = 0; i < count; i++) panels(matrices.data() + i * rows * k, rows, k);
    align();
  }
  void section(const std::vector<double>& plain) {
    values.insert(values.end(), plain.begin(), plain.end());
    align();
  }
  Guarded memory() const {
    Guarded memory(values.size() * static_cast<size_t>(scalar_bytes(type)));
    for (size_t i = 0; i < values.size(); i++) put(memory.data(), type, static_cast<int64_t>(i), values[i]);
    memory.protect();
    return memory;
  }
};

std::vector<double> numbers(Random& random, Scalar type, int64_t count, double scale) {
  std::vector<double> out;
  for (int64_t i = 0; i < count; i++) out.push_back(round_to(type, random.normal() * scale));
  return out;
}

// The inner channel of a block at each position of its maps: of `together` groups of `width` channels, `word` channels of each in turn.
std::vector<int64_t> channel_order(int64_t channels, int64_t width, int64_t word) {
  std::vector<int64_t> order;
  for (int64_t left = channels / width, first = 0; left > 0;) {
    int64_t together = width == 8 ? 4 : width == 16 || width % 16 == 8 ? 2 : 1;
    while (together > left) together /= 2;
    if (together == 1) word = 1;
    for (int64_t k = 0; k < width; k += word)
      for (int64_t i = 0; i < together; i++)
        for (int64_t j = 0; j < word; j++) order.push_back((first + i) * width + k + j);
    first += together, left -= together;
  }
  return order;
}

std::vector<double> ordered(const std::vector<double>& values, const std::vector<int64_t>& order, int64_t each = 1) {
  std::vector<double> out;
  for (const int64_t at : order) out.insert(out.end(), values.begin() + at * each, values.begin() + (at + 1) * each);
  return out;
}

// matrix (rows, k) -> of each row the sum of the products of its pairs, and then the root of the mean square of all
std::vector<double> pair_section(const std::vector<double>& matrix, int64_t k) {
  const std::vector<ChannelPair> pairs = pairs_of(k);
  std::vector<double> out;
  double squares = 0;
  for (size_t row = 0; row < matrix.size(); row += static_cast<size_t>(k)) {
    double sum = 0;
    for (const ChannelPair& pair : pairs) sum += pair.sign * matrix[row + pair.first] * matrix[row + pair.second];
    out.push_back(round_to(Scalar::f32, sum));
  }
  for (const double v : matrix) squares += v * v;
  out.push_back(round_to(Scalar::f32, std::sqrt(squares / static_cast<double>(matrix.size()))));
  return out;
}

void pack_block(Random& random, Scalar type, Layer& l, Blob& weights, Blob& params) {
  const int64_t width = l.group_width, k = l.c_mid + (l.projection ? l.c_in : 0);
  const auto root = [](double v) { return std::sqrt(v); };
  l.a = numbers(random, type, l.c_mid * l.c_in, root(2.0 / static_cast<double>(l.c_in)));
  l.b = numbers(random, type, l.c_mid * 9 * width, root(2.0 / (9.0 * static_cast<double>(width))));
  l.c = numbers(random, type, l.c_out * l.c_mid, root(0.5 / static_cast<double>(l.c_mid)));
  if (l.projection) l.shortcut = numbers(random, type, l.c_out * l.c_in, root(1.0 / static_cast<double>(l.c_in)));
  const std::vector<int64_t> order = l.order = channel_order(l.c_mid, width, 1), order_in = channel_order(l.c_mid, width, type == Scalar::bf16 ? 2 : 1);
  const std::vector<double> a = ordered(l.a, order_in, l.c_in);
  weights.section(a, 1, l.c_mid, l.c_in);
  // the groups that are together are one matrix, whose outputs are in the order of the map
  const std::vector<double> b = ordered(l.b, order, 9 * width);
  const int64_t most = width == 8 ? 4 : width == 16 || width % 16 == 8 ? 2 : 1;
  const bool in_pairs = width == 8 || width == 16 || width == 24 || width == 40 || width == 56;
  std::vector<std::pair<int64_t, int64_t>> runs;  // (first group, groups together)
  for (int64_t first = 0, left = l.c_mid / width; left > 0;) {
    int64_t together = most;
    while (together > left) together /= 2;
    runs.push_back({first, together});
    first += together, left -= together;
  }
  for (const auto& [first, together] : runs) {
    const double* matrix = b.data() + first * width * 9 * width;
    if (together == 1 && in_pairs) weights.pairs(matrix, width, 9 * width);
    else weights.panels(matrix, together * width, 9 * width);
  }
  weights.align();
  std::vector<double> joint, c_ordered;
  for (int64_t o = 0; o < l.c_out; o++) {
    for (const int64_t c : order) c_ordered.push_back(l.c[static_cast<size_t>(o * l.c_mid + c)]);
    joint.insert(joint.end(), c_ordered.end() - l.c_mid, c_ordered.end());
    if (l.projection) joint.insert(joint.end(), l.shortcut.begin() + o * l.c_in, l.shortcut.begin() + (o + 1) * l.c_in);
  }
  weights.section(joint, 1, l.c_out, k);
  l.c_ordered = c_ordered;
  if (l.winograd && type == Scalar::bf16) {
    for (const auto& [first, together] : runs) {
      const int64_t rows = together * width;
      std::vector<double> u(static_cast<size_t>(16 * rows * width));
      for (int64_t o = 0; o < rows; o++)
        for (int64_t i = 0; i < width; i++) {
          double filter[9], transformed[16];
          for (int64_t t = 0; t < 9; t++) filter[t] = b[static_cast<size_t>(((first * width + o) * 9 + t) * width + i)];
          winograd_bf16_weights(filter, transformed);
          for (int64_t t = 0; t < 16; t++) u[static_cast<size_t>((t * rows + o) * width + i)] = transformed[t];
        }
      for (int64_t t = 0; t < 16; t++) weights.panels(u.data() + t * rows * width, rows, width);
    }
    weights.align();
  }
  params.section(ordered(l.a_bias = numbers(random, Scalar::f32, l.c_mid, 0.3), order_in));
  params.section(ordered(l.b_bias = numbers(random, Scalar::f32, l.c_mid, 0.3), order));
  if (l.squeeze) {
    l.se_w1 = numbers(random, Scalar::f32, l.squeeze * l.c_mid, root(2.0 / static_cast<double>(l.c_mid)));
    std::vector<double> first;
    for (int64_t s = 0; s < l.squeeze; s++)
      for (const int64_t c : order) first.push_back(l.se_w1[static_cast<size_t>(s * l.c_mid + c)]);
    params.section(first);
    params.section(l.se_b1 = numbers(random, Scalar::f32, l.squeeze, 0.3));
    l.se_w2 = numbers(random, Scalar::f32, l.c_mid * l.squeeze, root(4.0 / static_cast<double>(l.squeeze)));
    std::vector<double> transposed;
    for (int64_t s = 0; s < l.squeeze; s++)
      for (const int64_t c : order) transposed.push_back(l.se_w2[static_cast<size_t>(c * l.squeeze + s)]);
    params.section(transposed);
    params.section(ordered(l.se_b2 = numbers(random, Scalar::f32, l.c_mid, 0.3), order));
  }
  params.section(l.c_bias = numbers(random, Scalar::f32, l.c_out, 0.3));
  if (l.pairs) {
    params.section(pair_section(a, l.c_in));
    std::vector<double> of_c = pair_section(c_ordered, l.c_mid);
    if (l.projection) {
      const std::vector<double> of_shortcut = pair_section(l.shortcut, l.c_in);
      of_c.insert(of_c.end(), of_shortcut.begin(), of_shortcut.end());
    }
    params.section(of_c);
  }
}

}  // namespace

Layer conv_layer(int64_t c_in, int64_t c_out, int64_t kernel, int64_t stride, int64_t groups, Activation activation) {
  return {StepKind::conv, c_in, 0, c_out, kernel, stride, kernel / 2, c_in / groups, 0, false, false, false, activation, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
}

Layer block_layer(int64_t c_in, int64_t c_mid, int64_t c_out, int64_t group_width, BlockShape shape, bool always_project) {
  const bool projection = always_project || c_in != c_out || shape.stride != 1;
  return {StepKind::block, c_in, c_mid, c_out, 3, shape.stride, 1, group_width, shape.squeeze, projection, shape.winograd, shape.pairs, shape.activation,
          {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
}

Layer head_layer(int64_t c_in, int64_t c_out) {
  return {StepKind::head, c_in, 0, c_out, 0, 1, 0, 0, 0, false, false, false, Activation::none, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
}

Network pack(Random& random, Type type, std::vector<Layer> layers) {
  const Scalar scalar = type == Type::f32 ? Scalar::f32 : Scalar::bf16;
  Blob weights{scalar, 32}, params{Scalar::f32, 16};
  Network network{type, {}, {7, static_cast<int64_t>(layers.size())}, Guarded(), Guarded(), 0, 0};
  for (Layer& l : layers) {
    l.pairs = l.pairs && type == Type::f32;
    network.program.insert(network.program.end(), {static_cast<int64_t>(l.kind), l.c_in, l.c_mid, l.c_out, l.kernel, l.stride, l.padding, l.group_width, l.squeeze,
                                                   l.projection, static_cast<int64_t>(l.activation), static_cast<int64_t>(weights.values.size()),
                                                   static_cast<int64_t>(params.values.size()), l.winograd ? (scalar == Scalar::bf16 ? 2 : 1) : 0, l.pairs, 0});
    if (l.kind == StepKind::conv) {
      const int64_t groups = l.c_in / l.group_width, k = l.kernel * l.kernel * l.group_width;
      l.b = numbers(random, Scalar::f32, l.c_out * k, std::sqrt(2.0 / static_cast<double>(k)));
      params.section(l.b, groups, l.c_out / groups, k);
      params.section(l.b_bias = numbers(random, Scalar::f32, l.c_out, 0.3));
    } else if (l.kind == StepKind::block) {
      pack_block(random, scalar, l, weights, params);
    } else if (l.c_out) {
      l.c = numbers(random, scalar, l.c_out * l.c_in, std::sqrt(1.0 / static_cast<double>(l.c_in)));
      weights.section(l.c, 1, l.c_out, l.c_in);
      params.section(l.c_bias = numbers(random, Scalar::f32, l.c_out, 0.3));
    }
  }
  network.layers = std::move(layers);
  network.weights = weights.memory();
  network.params = params.memory();
  network.weights_count = static_cast<int64_t>(weights.values.size());
  network.params_count = static_cast<int64_t>(params.values.size());
  return network;
}

std::string describe(const Network& network) {
  std::string out;
  for (const Layer& l : network.layers) {
    char line[160];
    if (l.kind == StepKind::conv)
      std::snprintf(line, sizeof line, " | conv %ld>%ld k%ld s%ld width %ld", l.c_in, l.c_out, l.kernel, l.stride, l.group_width);
    else if (l.kind == StepKind::block)
      std::snprintf(line, sizeof line, " | block %ld>%ld>%ld s%ld width %ld se %ld%s%s%s %s", l.c_in, l.c_mid, l.c_out, l.stride, l.group_width, l.squeeze,
                    l.projection ? " proj" : "", l.winograd ? " winograd" : "", l.pairs ? " pairs" : "", name(l.activation));
    else
      std::snprintf(line, sizeof line, " | head %ld>%ld", l.c_in, l.c_out);
    out += line;
  }
  return out;
}
