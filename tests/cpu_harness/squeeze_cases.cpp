// run_se_gate and run_squeeze_excite against double precision. Bounds: as in conv_cases.cpp for each of the two matrix
// products, the error of the first carried through the second by its weights' magnitudes; the slope of sigmoid is at most 1/4.
#include <cmath>

#include "check.h"
#include "cpu/ops.h"

namespace {

struct Weights {
  Floats w1, b1, w2, b2;
  SeWeights view(int64_t channels, int64_t squeeze) const { return {w1.data(), b1.data(), w2.data(), b2.data(), channels, squeeze}; }
};
Weights random_weights(Random& random, int64_t channels, int64_t squeeze) {
  return {random_floats(random, squeeze * channels, 1 / std::sqrt(static_cast<double>(channels))), random_floats(random, squeeze, 1),
          random_floats(random, channels * squeeze, 1 / std::sqrt(static_cast<double>(squeeze))), random_floats(random, channels, 1)};
}

// means and what they may be off -> gates and what these may be off
void gate_of(const Weights& w, int64_t images, int64_t channels, int64_t squeeze, const Doubles& means, const Doubles& off, Doubles& gate, Doubles& bound) {
  gate.assign(means.size(), 0);
  bound.assign(means.size(), 0);
  for (int64_t n = 0; n < images; n++) {
    Doubles hidden, hidden_bound;
    for (int64_t s = 0; s < squeeze; s++) {
      double sum = w.b1.values[static_cast<size_t>(s)], magnitude = std::fabs(sum), carried = 0;
      for (int64_t c = 0; c < channels; c++) {
        const double weight = w.w1.values[static_cast<size_t>(s * channels + c)];
        const size_t i = static_cast<size_t>(n * channels + c);
        sum += weight * means[i], magnitude += std::fabs(weight) * (std::fabs(means[i]) + off[i]), carried += std::fabs(weight) * off[i];
      }
      hidden.push_back(std::max(sum, 0.0));
      hidden_bound.push_back(carried + gamma_of(static_cast<double>(channels + 2)) * magnitude);
    }
    for (int64_t c = 0; c < channels; c++) {
      double sum = w.b2.values[static_cast<size_t>(c)], magnitude = std::fabs(sum), carried = 0;
      for (int64_t s = 0; s < squeeze; s++) {
        const double weight = w.w2.values[static_cast<size_t>(c * squeeze + s)];
        const size_t i = static_cast<size_t>(s);
        sum += weight * hidden[i], magnitude += std::fabs(weight) * (hidden[i] + hidden_bound[i]), carried += std::fabs(weight) * hidden_bound[i];
      }
      const size_t i = static_cast<size_t>(n * channels + c);
      gate[i] = 1 / (1 + std::exp(-sum));
      bound[i] = (carried + gamma_of(static_cast<double>(squeeze + 2)) * magnitude) / 4 + 10 * kUnit * gate[i];
    }
  }
}

void gates(Report& report, Random& random, int64_t images, int64_t channels, int64_t squeeze, int workers, Forking forking) {
  char label[160];
  std::snprintf(label, sizeof label, "se_gate %ldx%ld, squeeze %ld, %d workers, %s", images, channels, squeeze, workers, name(forking));
  begin(report, label);
  const Weights w = random_weights(random, channels, squeeze);
  const int64_t count = 1 + random.below(200);
  const Floats sums = random_floats(random, images * channels, static_cast<double>(count));
  Guarded gate(static_cast<size_t>(images * channels) * 4);
  run_se_gate(sums.data(), images, 1.0f / static_cast<float>(count), w.view(channels, squeeze), gate.as<float>(), workers, make_fork(forking));
  Doubles means = sums.values, off, want, bound;
  for (double& v : means) v /= static_cast<double>(count), off.push_back(gamma_of(3) * std::fabs(v));
  gate_of(w, images, channels, squeeze, means, off, want, bound);
  compare_bound(report, label, gate.data(), Scalar::f32, want, bound);
}

void whole(Report& report, Random& random, Scalar type, int64_t images, int64_t channels, int64_t h, int64_t w, int64_t squeeze, Layout layout, int workers,
           Forking forking) {
  char label[160];
  std::snprintf(label, sizeof label, "squeeze_excite %s %ldx%ldx%ldx%ld %s, squeeze %ld, %d workers, %s", name(type), images, channels, h, w, name(layout), squeeze,
                workers, name(forking));
  begin(report, label);
  const Weights weights = random_weights(random, channels, squeeze);
  const Tensor x = random_tensor(random, type, images, channels, h, w, layout);
  Guarded out(static_cast<size_t>(images * channels * h * w * scalar_bytes(type)));
  run_squeeze_excite(x.view, weights.view(channels, squeeze), out.data(), workers, make_fork(forking));
  const double area = static_cast<double>(h * w);
  Doubles means(static_cast<size_t>(images * channels)), off(means.size()), gate, gate_bound, want = x.values, bound(want.size());
  const auto slot = [&](size_t i) { return i / static_cast<size_t>(h * w * channels) * static_cast<size_t>(channels) + i % static_cast<size_t>(channels); };
  for (size_t i = 0; i < want.size(); i++) means[slot(i)] += want[i] / area, off[slot(i)] += gamma_of(area + 3) * std::fabs(want[i]) / area;
  gate_of(weights, images, channels, squeeze, means, off, gate, gate_bound);
  for (size_t i = 0; i < want.size(); i++) {
    const double error = std::fabs(want[i]) * gate_bound[slot(i)];
    want[i] *= gate[slot(i)];
    bound[i] = error + (unit(type) + kUnit) * (std::fabs(want[i]) + error) + smallest(type);
  }
  compare_bound(report, label, out.data(), type, want, bound);
}

}  // namespace

void squeeze_cases(Report& report, Random& random) {
  gates(report, random, 1, 24, 8, 1, Forking::serial);
  gates(report, random, 3, 56, 10, 2, Forking::threads);
  gates(report, random, 2, 171, 42, 3, Forking::reversed);
  gates(report, random, 3, 1, 1, 3, Forking::threads);
  gates(report, random, 0, 8, 8, 2, Forking::threads);
  whole(report, random, Scalar::f32, 2, 24, 7, 9, 8, Layout::nhwc, 2, Forking::threads);
  whole(report, random, Scalar::f32, 3, 57, 14, 14, 10, Layout::nchw, 3, Forking::threads);
  whole(report, random, Scalar::bf16, 2, 152, 7, 7, 42, Layout::nhwc_odd, 3, Forking::reversed);
  whole(report, random, Scalar::bf16, 1, 57, 1, 1, 10, Layout::expanded, 2, Forking::serial);
  whole(report, random, Scalar::f16, 3, 70, 9, 7, 8, Layout::nhwc, 3, Forking::threads);
  whole(report, random, Scalar::f16, 0, 8, 9, 7, 8, Layout::nhwc, 2, Forking::serial);
}
