#include "ops.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "arena.h"
#include "isa.h"
#include "plan.h"

namespace regnet_kernels::cpu {
namespace {

Type compute_type(const ConvArgs& a) {
  // pairs of bfloat16 channels need an even count a group; what is odd is computed in float32, which is only more exact
  return a.x.scalar == Scalar::bf16 && a.weight.i % 2 == 0 ? Type::bf16 : Type::f32;
}

}  // namespace

void run_conv(const ConvArgs& a, int workers, const Fork& fork) {
  const int64_t out_channels = a.weight.o, images = a.x.n, out_count = images * a.out_h * a.out_w * out_channels;
  if (out_count == 0) {
    if (a.sums) std::fill(a.sums, a.sums + images * out_channels, 0.0f);
    return;
  }
  const Type type = compute_type(a);
  const Type out_type = a.x.scalar == Scalar::bf16 ? Type::bf16 : Type::f32;
  const bool half = a.x.scalar == Scalar::f16;
  const bool pointwise = a.weight.kh == 1 && a.weight.kw == 1 && a.padding == 0;
  const bool direct = a.padding == 0 && a.x.channels_last() && !half && type == out_type && (a.gate == nullptr || (pointwise && a.groups == 1));
  const int64_t padded_h = a.x.h + 2 * a.padding, padded_w = a.x.w + 2 * a.padding;

  Plan plan(kernels(), workers);
  Conv c{};
  set_window(c, plan, type, nullptr, padded_h, padded_w, a.x.c, a.groups, a.weight.kh, a.weight.kw, a.stride);
  c.groups = static_cast<int>(a.groups);
  c.group_out = static_cast<int>(out_channels / a.groups);
  c.activation = a.activation;
  c.bias = a.bias;
  c.y_type = out_type;
  c.y_pixel = out_channels;
  c.y_row = out_channels * a.out_w;
  c.y_image = out_channels * a.out_w * a.out_h;
  c.out_h = static_cast<int>(a.out_h);
  c.out_w = static_cast<int>(a.out_w);
  if (direct && a.gate) c.gate = a.gate, c.gate_image = a.x.c;
  const int64_t k = a.weight.i * a.weight.kh * a.weight.kw, words = packed_words(out_channels, a.groups, k, type);
  c.w_group = words / a.groups;
  c.fold = a.groups > 1 && packs_pairs(a.weight.i, out_channels / a.groups);
  if (c.fold) c.words = 2, c.steps /= 2;

  const bool residual_direct = a.residual && a.residual->channels_last() && !half;
  const size_t x_bytes = direct ? 0 : images * padded_h * padded_w * a.x.c * type_bytes(type);
  const size_t r_bytes = a.residual && !residual_direct ? out_count * type_bytes(out_type) : 0;
  const size_t y_bytes = half ? out_count * 4 : 0;
  const size_t slot_floats = a.sums ? images * plan.pool_slots(c) * out_channels : 0;
  const int64_t scratch = c.gate ? plan.scratch_words(c.steps) : 0;
  Arena arena(Arena::padded(words * 4) + Arena::padded(x_bytes) + Arena::padded(r_bytes) + Arena::padded(y_bytes) +
              Arena::padded(slot_floats * 4) + Arena::padded(scratch * 4 * workers));

  uint32_t* packed = arena.take<uint32_t>(words);
  plan.add(Work::load, 1, [&a, type, packed, pairs = c.fold](int, int) { pack_weights(a.weight, a.groups, type, pairs, packed); });
  c.w = packed;
  char* loaded = arena.take<char>(x_bytes);
  if (direct) {
    c.x = static_cast<const uint32_t*>(a.x.data);
  } else {
    plan.add_load(a.x, 0, images, a.padding, a.gate, type, loaded);
    c.x = reinterpret_cast<const uint32_t*>(loaded);
  }
  char* residual = arena.take<char>(r_bytes);
  if (a.residual) {
    c.residual = residual_direct ? a.residual->data : residual;
    if (!residual_direct) plan.add_load(*a.residual, 0, images, 0, nullptr, out_type, residual);
  }
  float* y = reinterpret_cast<float*>(arena.take<char>(y_bytes));
  c.y = half ? static_cast<void*>(y) : a.out;
  c.pool = a.sums ? arena.take<float>(slot_floats) : nullptr;
  c.pool_stride = out_channels;
  plan.set_scratch(arena.take<uint32_t>(scratch * workers), scratch);
  plan.add_conv(c, images);
  if (a.sums) {
    const int64_t slots = plan.pool_slots(c);
    plan.add(Work::load, images, [=, &a](int n, int) {
      float* sums = a.sums + n * out_channels;
      std::fill(sums, sums + out_channels, 0.0f);
      for (int64_t s = 0; s < slots; s++)
        for (int64_t o = 0; o < out_channels; o++) sums[o] += c.pool[(n * slots + s) * out_channels + o];
    });
  }
  if (half) plan.add_to_half(y, static_cast<uint16_t*>(a.out), out_count);
  plan.run(fork);
}

namespace {

// The kernels read the second matrix transposed, (S, C).
void transpose(const float* w, int64_t rows, int64_t columns, float* out) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) out[c * rows + r] = w[r * columns + c];
}

size_t se_bytes(int64_t images, const SeWeights& w, int workers) {
  return Arena::padded(w.channels * w.squeeze * 4) + Arena::padded(images * w.squeeze * 4) +
         Arena::padded(workers * images * w.channels * 4);
}

void add_se(Plan& plan, Arena& arena, const float* sums, int64_t images, float inverse_count, const SeWeights& w, float* gate) {
  float* w2t = arena.take<float>(w.channels * w.squeeze);
  plan.add(Work::load, 1, [w, w2t](int, int) { transpose(w.w2, w.channels, w.squeeze, w2t); });
  SqueezeExcite se{};
  se.sums = sums;
  se.slots = 1;
  se.inverse_count = inverse_count;
  se.w1 = w.w1, se.b1 = w.b1, se.w2t = w2t, se.b2 = w.b2;
  se.hidden = arena.take<float>(images * w.squeeze);
  se.pooled = arena.take<float>(plan.workers * images * w.channels);
  se.gate = gate;
  se.images = static_cast<int>(images), se.channels = static_cast<int>(w.channels), se.squeeze = static_cast<int>(w.squeeze);
  plan.add_squeeze_excite(se);
}

}  // namespace

void run_se_gate(const float* sums, int64_t images, float inverse_count, const SeWeights& w, float* gate, int workers, const Fork& fork) {
  if (images == 0 || w.channels == 0) return;
  Plan plan(kernels(), workers);
  Arena arena(se_bytes(images, w, workers));
  add_se(plan, arena, sums, images, inverse_count, w, gate);
  plan.run(fork);
}

void run_squeeze_excite(const TensorView& x, const SeWeights& w, void* out, int workers, const Fork& fork) {
  const int64_t pixels = x.h * x.w, count = x.n * pixels * x.c;
  if (count == 0) return;
  const bool half = x.scalar == Scalar::f16, direct = x.channels_last() && !half;
  const Type type = x.scalar == Scalar::bf16 ? Type::bf16 : Type::f32;
  const int64_t bytes = type_bytes(type);
  Plan plan(kernels(), workers);
  const size_t x_bytes = direct ? 0 : count * bytes;
  Arena arena(se_bytes(x.n, w, workers) + Arena::padded(x_bytes) + 2 * Arena::padded(x.n * x.c * 4));
  char* loaded = arena.take<char>(x_bytes);
  if (!direct) plan.add_load(x, 0, x.n, 0, nullptr, type, loaded);
  const char* in = direct ? static_cast<const char*>(x.data) : loaded;
  float *sums = arena.take<float>(x.n * x.c), *gate = arena.take<float>(x.n * x.c);
  plan.add_sum_pixels(type, in, x.n, pixels, x.c, sums, nullptr);
  add_se(plan, arena, sums, x.n, 1.0f / static_cast<float>(pixels), w, gate);
  const Kernels* k = &kernels();
  char* const y = half ? loaded : static_cast<char*>(out);
  const int64_t parts = std::clamp<int64_t>(pixels * x.c / 16384, 1, std::min<int64_t>(pixels, 2 * workers));
  const int64_t channels = x.c;
  plan.add(Work::store, x.n * parts, [=](int t, int) {
    const int64_t n = t / parts, begin = pixels * (t % parts) / parts, end = pixels * (t % parts + 1) / parts;
    const int64_t at = (n * pixels + begin) * channels * bytes;
    k->scale_pixels(type, in + at, gate + n * channels, y + at, end - begin, channels);
  });
  if (half) plan.add_to_half(reinterpret_cast<const float*>(loaded), static_cast<uint16_t*>(out), count);
  plan.run(fork);
}

double fma_peak(Type type, double seconds, int workers, const Fork& fork) {
  using clock = std::chrono::steady_clock;
  std::vector<double> rate(static_cast<size_t>(workers), 0.0);
  const Kernels& k = kernels();
  const auto deadline = clock::now() + std::chrono::duration<double>(seconds);
  fork(workers, [&](int worker) {
    float sink[4] = {1.0f, 0.999f, 0.001f, 0.0f};
    double best = 0;  // of slices of some tens of microseconds: what the core gives when nothing else takes it
    do {
      const auto start = clock::now();
      const double flops = k.fma_burst(type, 20'000, sink);
      best = std::max(best, flops / std::chrono::duration<double>(clock::now() - start).count());
    } while (clock::now() < deadline);
    rate[static_cast<size_t>(worker)] = best;
  });
  double sum = 0;
  for (double r : rate) sum += r;
  return sum / 1e9;
}

}  // namespace regnet_kernels::cpu
