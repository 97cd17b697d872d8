// The Winograd kernel of a table against a direct convolution in double precision. Every intermediate result is at most
// |A| |A| (|G| |G| |w| |B| |B| |x|) (reference.h); each pass of a transform rounds at most 6 times (products with rounded constants
// included), the product sums `group width` times: gamma(group width + 42) in all, bias and sums included. Of stride 2 four times the group
// width, in one chain, and 2 roundings before each pass.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "cpu/isa.h"
#include "packed.h"

namespace {

// groups: of `together` interleaved groups of `width` channels.
void run(Report& report, Random& random, int64_t images, int64_t groups, int64_t together, int64_t width, int64_t h, int64_t w,
         Activation activation, bool pool, int64_t stride = 1) {
  char label[160];
  std::snprintf(label, sizeof label, "winograd %ld images, %ld x %ld groups of %ld, %ldx%ld, stride %ld, %s%s", images, groups, together, width, h, w, stride,
                name(activation), pool ? ", pool" : "");
  begin(report, label);
  const bool strided = stride == 2;
  const int64_t channels = groups * together * width, out_h = (h - 1) / stride + 1, out_w = (w - 1) / stride + 1, tile = strided ? 2 : 4;
  const int64_t tiles_h = (out_h + tile - 1) / tile, tiles_w = (out_w + tile - 1) / tile;
  const int64_t padded_h = strided ? h + 2 : winograd_padded(h), padded_w = strided ? w + 2 : winograd_padded(w);
  const Tensor x = random_tensor(random, Scalar::f32, images, channels, h, w, Layout::nhwc);
  const Tensor weight = random_tensor(random, Scalar::f32, channels, width, 3, 3, Layout::nhwc, 1 / std::sqrt(9.0 * static_cast<double>(width)));
  const Floats bias = random_floats(random, channels, 1);

  // where channel c lies in a map
  const auto position = [&](int64_t c) {
    const int64_t all = together * width, group = c % all / width, k = c % width;
    return c / all * all + k * together + group;
  };
  Guarded padded(static_cast<size_t>(images * padded_h * padded_w * channels * 4));
  std::memset(padded.data(), 0, padded.bytes());
  for (int64_t n = 0; n < images; n++)
    for (int64_t i = 0; i < h; i++)
      for (int64_t j = 0; j < w; j++)
        for (int64_t c = 0; c < channels; c++)
          put(padded.data(), Scalar::f32, ((n * padded_h + i + 1) * padded_w + j + 1) * channels + position(c),
              x.values[static_cast<size_t>(((n * h + i) * w + j) * channels + c)]);
  padded.protect();
  const bool fold = together == 1 && (width <= 24 || width == 40 || width == 56);  // packed in pairs
  std::vector<double> matrix(weight.values.size()), packed;
  for (int64_t o = 0; o < channels; o++)
    std::copy_n(weight.values.begin() + o * 9 * width, 9 * width, matrix.begin() + position(o) * 9 * width);
  for (int64_t i = 0; i < groups; i++) {
    const double* const here = matrix.data() + i * together * width * 9 * width;
    if (fold) add_pairs(packed, Scalar::f32, here, width, 9 * width);
    else add_panels(packed, Scalar::f32, here, together * width, 9 * width);
  }
  Guarded weights(packed.size() * 4);
  for (size_t i = 0; i < packed.size(); i++) put(weights.data(), Scalar::f32, static_cast<int64_t>(i), packed[i]);
  weights.protect();

  Floats bias_there{Guarded(static_cast<size_t>(channels) * 4), bias.values};
  for (int64_t c = 0; c < channels; c++) bias_there.memory.as<float>()[position(c)] = static_cast<float>(bias.values[static_cast<size_t>(c)]);

  Guarded y(static_cast<size_t>(images * out_h * out_w * channels) * 4);
  Guarded scratch(static_cast<size_t>(strided ? winograd_strided_scratch_words(together * width, width) : winograd_scratch_words(together * width, width)) * 4);
  const int64_t tiles = tiles_h * tiles_w, slots = pool ? 2 * images : 1;
  Guarded pools(static_cast<size_t>(slots * channels) * 4);
  Winograd args{};
  args.x = padded.as<float>(), args.w = weights.as<uint32_t>(), args.bias = bias_there.data();
  args.w_group = static_cast<int64_t>(packed.size()) / groups, args.fold = fold;
  args.next[0] = args.next[1] = weights.as<char>(), args.next_bytes = static_cast<int64_t>(weights.bytes());
  args.stride = static_cast<int>(stride);
  args.x_pixel = stride * channels, args.x_row = stride * channels * padded_w, args.x_image = channels * padded_w * padded_h;
  args.groups = static_cast<int>(groups), args.group_width = static_cast<int>(width), args.together = static_cast<int>(together);
  args.y = y.as<float>();
  args.y_pixel = channels, args.y_row = channels * out_w, args.y_image = channels * out_w * out_h;
  args.activation = activation;
  args.pool = pool ? pools.as<float>() : nullptr;
  args.pool_stride = channels;
  args.out_h = static_cast<int>(out_h), args.out_w = static_cast<int>(out_w);
  args.tiles_h = static_cast<int>(tiles_h), args.tiles_w = static_cast<int>(tiles_w);
  const int64_t rounds = pool ? images : 1, in_round = pool ? tiles : images * tiles;
  const int64_t parts = random.chance(0.5) ? 2 : 1;  // of a task; else the halves are tasks of their own
  for (int64_t round = 0; round < rounds; round++)
    for (int64_t half = 0; half < 2; half += parts)
      for (int64_t split = 0; split < 2; split++) {
        WinogradTask task{};
        task.tile0 = round * tiles + in_round * half / 2, task.tile1 = round * tiles + in_round * (half + parts) / 2;
        task.parts = parts;
        task.group0 = static_cast<int>(groups * split / 2), task.group1 = static_cast<int>(groups * (split + 1) / 2);
        task.pool_slot = round * 2 + half;
        task.next[0] = args.next[0], task.next[1] = args.next[1], task.next_bytes = args.next_bytes;
        scratch.poison();
        kernels().winograd(args, task, scratch.as<float>());
      }

  const Window window{images, channels, h, w, channels, 3, 3, groups * together, stride, 1};
  Doubles want, bound, pooled(static_cast<size_t>(images * channels)), pooled_bound(pooled.size()), got(pooled.size());
  convolve(window, x.values, weight.values, want, nullptr);
  if (strided) winograd_strided_magnitude(window, x.values, weight.values, bound);
  else winograd_magnitude(window, x.values, weight.values, bound);
  const double roundings = static_cast<double>((strided ? 4 : 1) * width + 42), area = static_cast<double>(out_h * out_w);
  for (size_t i = 0; i < want.size(); i++) {
    const size_t o = i % static_cast<size_t>(channels), slot = i / static_cast<size_t>(out_h * out_w * channels) * static_cast<size_t>(channels) + o;
    want[i] = activate(want[i] + bias.values[o], activation);
    bound[i] = activation_slope(activation) * gamma_of(roundings) * (bound[i] + std::fabs(bias.values[o])) + activation_error(want[i], activation);
    pooled[slot] += want[i];
    pooled_bound[slot] += bound[i] + gamma_of(area + 2) * (std::fabs(want[i]) + bound[i]);
  }
  Guarded there(y.bytes());
  for (int64_t i = 0; i < images * out_h * out_w * channels; i++)
    put(there.data(), Scalar::f32, i, get(y.data(), Scalar::f32, i / channels * channels + position(i % channels)));
  compare_bound(report, label, there.data(), Scalar::f32, want, bound);
  if (!pool) return;
  Guarded sums(pooled.size() * 4);
  for (int64_t n = 0; n < images; n++)
    for (int64_t c = 0; c < channels; c++)
      sums.as<float>()[n * channels + c] = pools.as<float>()[2 * n * channels + position(c)] + pools.as<float>()[(2 * n + 1) * channels + position(c)];
  compare_bound(report, std::string(label) + " (sums)", sums.data(), Scalar::f32, pooled, pooled_bound);
}

}  // namespace

void winograd_cases(Report& report, Random& random) {
  for (const int64_t width : {8, 16, 24, 40, 48, 56, 64, 72, 120, 136})
    for (const int64_t together : std::initializer_list<int64_t>{1, interleave(width)})
      for (const int64_t stride : {1, 2})
        run(report, random, 1 + random.below(3), 1 + random.below(3), together, width, 3 + random.below(9), 3 + random.below(9),
            random.pick({Activation::none, Activation::relu, Activation::silu}), random.chance(0.5), stride);
  run(report, random, 2, 3, 1, 8, 1, 1, Activation::relu, true);
  run(report, random, 1, 2, 2, 8, 5, 9, Activation::relu, true);
  run(report, random, 1, 2, 1, 24, 8, 8, Activation::silu, true);
  run(report, random, 1, 1, 2, 24, 14, 14, Activation::relu, true);
  run(report, random, 3, 1, 2, 16, 22, 19, Activation::relu, false);  // more tiles than are transformed together
  run(report, random, 2, 1, 2, 40, 33, 36, Activation::none, false);  // the same of several sets of panels
  run(report, random, 2, 1, 1, 56, 37, 33, Activation::relu, true);  // 12 positions at a time
  for (const auto& [h, w] : {std::pair{1, 1}, {2, 1}, {1, 4}, {7, 9}, {6, 3}}) run(report, random, 2, 2, 1, 24, h, w, Activation::relu, true, 2);
  run(report, random, 3, 1, 1, 48, 37, 42, Activation::silu, false, 2);
  run(report, random, 2, 1, 2, 72, 30, 33, Activation::relu, true, 2);
}
