// Winograd's F(2x2) of a table, in bfloat16, against a direct convolution in double precision. Every intermediate result is at most
// |A| |A| (|U| |B| |B| |x|) (reference.h); transformed weights and input are rounded to bfloat16 once each, all else to float32: each
// pass of a transform at most 3 times, the product sums `group width` times.
#include <cmath>

#include "check.h"
#include "cpu/isa.h"

namespace {

// groups: of `together` interleaved groups of `width` channels.
void run(Report& report, Random& random, int64_t images, int64_t groups, int64_t together, int64_t width, int64_t h, int64_t w,
         Activation activation, bool pool) {
  constexpr Scalar type = Scalar::bf16;
  char label[160];
  std::snprintf(label, sizeof label, "winograd F(2x2) %s %ld images, %ld x %ld groups of %ld, %ldx%ld, %s%s", name(type), images, groups, together, width, h, w,
                name(activation), pool ? ", pool" : "");
  begin(report, label);
  const int64_t channels = groups * together * width, tiles_h = (h + 1) / 2, tiles_w = (w + 1) / 2, padded_h = tiles_h * 2 + 2, padded_w = tiles_w * 2 + 2;
  const Tensor x = random_tensor(random, type, images, channels, h, w, Layout::nhwc);
  const Tensor weight = random_tensor(random, Scalar::f32, channels, width, 3, 3, Layout::nhwc, 1 / std::sqrt(9.0 * static_cast<double>(width)));
  const Floats bias = random_floats(random, channels, 1);

  // where channel c lies in a map, `word` channels of each group in turn
  const auto position = [&](int64_t c, int64_t word) {
    const int64_t all = together * width, group = c % all / width, k = c % width;
    return c / all * all + k / word * word * together + group * word + k % word;
  };
  Guarded padded(static_cast<size_t>(images * padded_h * padded_w * channels * scalar_bytes(type)));
  std::memset(padded.data(), 0, padded.bytes());
  for (int64_t n = 0; n < images; n++)
    for (int64_t i = 0; i < h; i++)
      for (int64_t j = 0; j < w; j++)
        for (int64_t c = 0; c < channels; c++)
          put(padded.data(), type, ((n * padded_h + i + 1) * padded_w + j + 1) * channels + position(c, together > 1 ? 2 : 1),
              x.values[static_cast<size_t>(((n * h + i) * w + j) * channels + c)]);
  padded.protect();
  const int64_t lanes = together * width;
  Guarded u(static_cast<size_t>(groups * 16 * lanes * width) * 2);
  std::memset(u.data(), 0, u.bytes());
  for (int64_t o = 0; o < channels; o++)
    for (int64_t k = 0; k < width; k++) {
      double filter[9], transformed[16];
      for (int64_t t = 0; t < 9; t++) filter[t] = weight.values[static_cast<size_t>((o * 9 + t) * width + k)];
      winograd_bf16_weights(filter, transformed);
      const int64_t row = position(o, 1) % lanes, panel = row / kPanel, in_panel = std::min<int64_t>(kPanel, lanes - panel * kPanel);
      for (int64_t t = 0; t < 16; t++)
        put(u.data(), type, ((o / lanes * 16 + t) * lanes + panel * kPanel) * width + (k / 2 * in_panel + row % kPanel) * 2 + k % 2, transformed[t]);
    }
  u.protect();

  Floats bias_there{Guarded(static_cast<size_t>(channels) * 4), bias.values};
  for (int64_t c = 0; c < channels; c++) bias_there.memory.as<float>()[position(c, 1)] = static_cast<float>(bias.values[static_cast<size_t>(c)]);

  Guarded y(x.memory.bytes()), scratch(static_cast<size_t>(winograd_bf16_scratch_words(lanes)) * 4);
  const int64_t tiles = tiles_h * tiles_w, slots = pool ? 2 * images : 1;
  Guarded pools(static_cast<size_t>(slots * channels) * 4);
  WinogradBf16 args{};
  args.x = padded.as<const uint16_t>(), args.u = u.as<const uint32_t>(), args.bias = bias_there.data();
  args.x_pixel = channels, args.x_row = channels * padded_w, args.x_image = channels * padded_w * padded_h;
  args.groups = static_cast<int>(groups), args.group_width = static_cast<int>(width), args.together = static_cast<int>(together);
  args.y = y.as<uint16_t>();
  args.y_pixel = channels, args.y_row = channels * w, args.y_image = channels * w * h;
  args.activation = activation;
  args.pool = pool ? pools.as<float>() : nullptr;
  args.pool_stride = channels;
  args.out_h = static_cast<int>(h), args.out_w = static_cast<int>(w);
  args.tiles_h = static_cast<int>(tiles_h), args.tiles_w = static_cast<int>(tiles_w);
  const int64_t rounds = pool ? images : 1, in_round = pool ? tiles : images * tiles;
  for (int64_t round = 0; round < rounds; round++)
    for (int64_t part = 0; part < 2; part++)
      for (int64_t split = 0; split < 2; split++) {
        WinogradBf16Task task{};
        task.tile0 = round * tiles + in_round * part / 2, task.tile1 = round * tiles + in_round * (part + 1) / 2;
        task.group0 = static_cast<int>(groups * split / 2), task.group1 = static_cast<int>(groups * (split + 1) / 2);
        task.pool_slot = round * 2 + part;
        scratch.poison();
        kernels().winograd_bf16(args, task, scratch.as<float>());
      }

  const Window window{images, channels, h, w, channels, 3, 3, groups * together, 1, 1};
  Doubles want, bound, squares, pooled(static_cast<size_t>(images * channels)), pooled_bound(pooled.size()), got(pooled.size());
  convolve(window, x.values, weight.values, want, nullptr);
  winograd_bf16_magnitude(window, x.values, weight.values, bound, squares);
  for (size_t i = 0; i < want.size(); i++) {
    const size_t o = i % static_cast<size_t>(channels), slot = i / static_cast<size_t>(h * w * channels) * static_cast<size_t>(channels) + o;
    want[i] = activate(want[i] + bias.values[o], activation);
    const double rounded = 2 * unit(type) + unit(type) * unit(type) + gamma_of(static_cast<double>(width + 16));
    bound[i] = activation_slope(activation) * (rounded * bound[i] + gamma_of(3) * std::fabs(bias.values[o])) + activation_error(want[i], activation);
    pooled[slot] += want[i];
    pooled_bound[slot] += bound[i] + gamma_of(static_cast<double>(h * w + 2)) * (std::fabs(want[i]) + bound[i]);
    bound[i] += unit(type) * (std::fabs(want[i]) + bound[i]) + smallest(type);
  }
  Guarded there(y.bytes());
  for (int64_t i = 0; i < images * h * w * channels; i++)
    put(there.data(), type, i, get(y.data(), type, i / channels * channels + position(i % channels, 1)));
  compare_bound(report, label, there.data(), type, want, bound);
  if (!pool) return;
  Guarded sums(pooled.size() * 4);
  for (int64_t n = 0; n < images; n++)
    for (int64_t c = 0; c < channels; c++)
      sums.as<float>()[n * channels + c] = pools.as<float>()[2 * n * channels + position(c, 1)] + pools.as<float>()[(2 * n + 1) * channels + position(c, 1)];
  compare_bound(report, std::string(label) + " (sums)", sums.data(), Scalar::f32, pooled, pooled_bound);
}

}  // namespace

void winograd_bf16_cases(Report& report, Random& random) {
  for (const int64_t width : {8, 16, 24, 40, 48, 56, 64, 72, 112, 120})
    for (int64_t together = interleave(width); together >= 1; together /= 2)
      run(report, random, 1 + random.below(3), 1 + random.below(3), together, width, 1 + random.below(9), 1 + random.below(9),
          random.pick({Activation::none, Activation::relu, Activation::silu}), random.chance(0.5));
  run(report, random, 2, 3, 1, 8, 1, 1, Activation::relu, true);
  run(report, random, 0, 1, 2, 24, 5, 5, Activation::relu, false);
  run(report, random, 1, 2, 2, 24, 7, 9, Activation::relu, true);
  run(report, random, 1, 2, 4, 8, 33, 17, Activation::silu, true);  // more tiles than are transformed together
  run(report, random, 3, 1, 2, 40, 33, 17, Activation::relu, false);
}
