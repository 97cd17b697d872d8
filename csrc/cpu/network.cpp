#include "network.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "arena.h"
#include "isa.h"
#include "plan.h"
#include "plan_cache.h"

namespace regnet_kernels::cpu {
namespace {

// A batch goes through the network in groups of images, so that activations stay in the caches: on large maps one image at
// a time, on small ones as many as give the weights (read once a group) enough pixels to work against.
constexpr int64_t kPixelsPerGroup = 784;

int64_t images_per_group(int64_t images, int64_t out_h, int64_t out_w) {
  const int64_t area = std::max<int64_t>(1, out_h * out_w);
  return std::clamp<int64_t>((kPixelsPerGroup + area - 1) / area, 1, images);
}

struct Map {  // of one step
  int64_t in_h, in_w, out_h, out_w, group;
  bool winograd;
  int64_t padded_h, padded_w;  // of the buffer between a block's 1x1 and its 3x3
  int64_t strips = 1;          // in which these two go, each worker through some
  int64_t at_once = 0;         // images of a group of which they go together
};

// A large map between a block's 1x1 and its 3x3 goes in strips of rows, so that it stays in L2: since the image before, the network's weights
// have passed through L3, and its lines would have to come back from memory. A worker takes strips of its own part of the map through both
// layers, without waiting for the others, and meets the rows that it wrote before: with two cores that share no L3 small networks are 4 to 9 %
// faster than with strips that all workers share, with two that share one as fast. Each strip reads all weights, so these must be few. Of a
// batch the next image uses the same lines again, and whole maps are better by 1 %. (regnetx_1.6gf, 112x112x72, one image: the two layers
// 0.45 -> 0.37 ms.)
int64_t strips_of(const Step& s, const Map& m, int64_t batch, Type type, const Plan& plan) {
  const int64_t bytes = type_bytes(type), most = (plan.k.vector_floats == 16 ? 384 : 192) * 1024 * plan.workers;
  const int64_t weights = (s.c_in + 9 * s.group_width) * s.c_mid * bytes, map = m.padded_h * m.padded_w * s.c_mid * bytes;
  const int64_t each = std::min((map + most - 1) / most, m.out_h / 4 / plan.workers);  // of a worker
  return batch > 1 || weights > 256 * 1024 || map <= most || each == 0 ? 1 : each * plan.workers;
}

// A strip: rows [first, last) of the 3x3's output, [in_first, in_last) of its input, `top` rows of border above these, `padded` rows in all.
struct Strip {
  int64_t first, last, in_first, in_last, top, padded;
};
Strip strip_of(const Step& s, const Map& m, int64_t i) {
  if (m.strips == 1) return {0, m.out_h, 0, m.in_h, 1, m.padded_h};
  const int64_t whole = m.winograd ? 2 : 1, tiles = m.out_h / whole;  // not half a tile for each strip
  const int64_t first = tiles * i / m.strips * whole, last = i + 1 == m.strips ? m.out_h : tiles * (i + 1) / m.strips * whole;
  const int64_t begin = s.stride * first - 1, end = s.stride * (last - 1) + 2;
  const int64_t in_first = std::max<int64_t>(begin, 0), in_last = std::min(end, m.in_h);
  return {first, last, in_first, in_last, in_first - begin, end - begin};
}

// Is Winograd worth it with stride 2? In multiply-adds of a channel of the group: a tile's transforms take as long as 200 of them, the
// weights' as 61; with vectors of 16 lanes the sums, which are shorter than direct ones, go 17 % slower. (Measured where this says yes, widths 24 to
// 128: AVX-512 1.0 to 1.25 times as fast, AVX2 1.0 to 1.4.)
bool use_strided_winograd(const Step& s, const Map& m, int vector_floats) {
  const auto products = [](int64_t side) { return 5 * (side / 2) + 3 * (side % 2); };
  const int64_t images = std::min(m.group, images_per_group(m.group, m.in_h, m.in_w)), tiles = ((m.out_h + 1) / 2) * ((m.out_w + 1) / 2);
  const double direct = 9.0 * static_cast<double>(images * m.out_h * m.out_w * s.group_width);
  const double fast = static_cast<double>(images * (products(m.out_h) * products(m.out_w) * s.group_width + 200 * tiles));
  return direct > (vector_floats == 16 ? 1.17 : 1.0) * fast + 61.0 * static_cast<double>(s.group_width);
}

// Is Winograd worth it? In float32 each group's weights are transformed once a pass, so there must be tiles to use them on.
bool use_winograd(const Step& s, const Map& m, Type type, int vector_floats) {
  if (!s.has_winograd) return false;
  if (s.stride == 2) return use_strided_winograd(s, m, vector_floats);
  if (type == Type::f32) return m.group * ((m.out_h + 3) / 4) * ((m.out_w + 3) / 4) >= 12;
  // In bfloat16 the weights are 1.8 times the plain ones, and come from memory at batch 1. A tile takes 16 products for each channel of the
  // group, and its transforms as long as some 20 channels more; directly it takes 36, or fewer at an edge.
  const int64_t tiles = ((m.out_h + 1) / 2) * ((m.out_w + 1) / 2);
  return m.group * tiles >= 32 && 9 * s.group_width * m.out_h * m.out_w > tiles * (16 * s.group_width + 300);
}
// The padded map's side for Winograd.
int64_t winograd_side(int64_t side, Type type) { return type == Type::f32 ? winograd_padded(side) : (side + 1) / 2 * 2 + 2; }

// Are pairs worth it for a 1x1? A pixel's channels are scaled and copied once for all of its outputs, and a tile has more of an end. (Zen 5, two
// threads, one image: 120 to 120 channels 1.04 times as fast, 128 to 128 1.05, 72 to 168 0.9 to 1.02, 72 to 72 0.7; 120 + 48 to 120 0.87, 168 + 72
// to 168 1.1.)
bool use_pairs(const Conv& c, int64_t pixels) {
  const int64_t channels = c.steps;
  return pixels >= 20 && channels >= 96 && (c.steps2 == 0 || c.steps2 >= 64) && c.group_out >= 64 && channels * c.group_out >= 9'000;
}
// Can it go by pairs? Each source has a run of its own at least.
bool can_pair(const Conv& c, const Kernels& k) { return k.pairs && pairs_allowed() && c.steps >= kPairRun && (c.steps2 == 0 || c.steps2 >= kPairRun); }

// Zeros of `images` images that the padded buffer holds.
struct Zeros {
  Border border;
  int64_t images;
  bool covered_by(const Zeros& o) const {
    const Border &a = border, &b = o.border;
    return a.top == b.top && a.h == b.h && a.w == b.w && a.padded_h == b.padded_h && a.padded_w == b.padded_w && a.pixel_bytes == b.pixel_bytes && images <= o.images;
  }
};

// What pointers of the plan are relative to: the caller's tensors, then the pieces of working memory.
enum : Base { kX, kOut, kWeights, kParams, kFirstPiece };

class Builder {
 public:
  // layers: gets what was chosen for each step.
  Builder(const TensorView& x, Type type, const std::vector<Step>& steps, const Choices& choices, Plan& plan, std::vector<LayerMade>& layers)
      : x_(x), type_(type), steps_(steps), plan_(plan), made_(layers), pixel_(type_bytes(type)), half_out_(x.scalar == Scalar::f16) {
    x_.data = relative_to(kX);
    int64_t h = x.h, w = x.w;
    for (const Step& s : steps) {
      Map m{h, w, s.out_side(h), s.out_side(w), 0, false, h + 2, w + 2};
      const LayerKey key{static_cast<int64_t>(type), static_cast<int64_t>(s.kind), s.c_in, s.c_mid, s.c_out, s.kernel, s.stride, s.padding,
                         s.group_width, s.se_width, s.has_projection, s.has_winograd, h, w, x.n, plan.workers};
      const LayerChoice& choice = choices_.emplace_back(choices.of(key));
      m.group = choice.group ? std::min(choice.group, x.n) : images_per_group(x.n, m.out_h, m.out_w);
      if (s.kind == StepKind::block && (choice.winograd ? choice.winograd == 2 && s.has_winograd : use_winograd(s, m, type, plan.k.vector_floats))) {
        m.winograd = true;
        if (s.stride == 1) m.padded_h = winograd_side(h, type), m.padded_w = winograd_side(w, type);
      }
      if (s.kind == StepKind::block && !(m.winograd && s.stride == 1)) {
        m.strips = strips_of(s, m, x.n, type, plan);
        // The map before a strided 3x3 is the larger one: of 16 images at 14x14 it would leave L2, where 784 pixels of the 7x7 behind it do not.
        if (s.stride > 1) m.at_once = std::min(m.group, images_per_group(x.n, h, w));
        if (m.strips > 1) m.padded_h = s.stride * ((m.out_h + m.strips - 1) / m.strips - 1 + m.winograd) + 3;
      }
      if (s.kind == StepKind::head) m.group = x.n;
      if (!m.at_once) m.at_once = m.group;
      maps_.push_back(m);
      made_.push_back({key, m.group, m.winograd ? 2 : 1, {}, {}, {}});
      h = m.out_h, w = m.out_w;
    }
  }

  // Adds all phases, and returns the bytes of each piece of working memory.
  std::vector<size_t> build() {
    size_buffers();
    std::vector<size_t> pieces = take_buffers();
    const size_t count = steps_.size();
    const char* current = static_cast<const char*>(x_.data);
    const bool first_conv = steps_[0].kind == StepKind::conv;
    if (!first_conv && !(x_.channels_last() && x_.scalar != Scalar::f16)) {
      plan_.add_load(x_, 0, x_.n, 0, nullptr, type_, whole_[0]);
      current = whole_[0];
    }
    for (size_t i = 0; i < count;) {
      const size_t end = run_end(i);
      const char* after = current;
      for (int64_t first = 0; first < x_.n; first += maps_[i].group) {
        const int64_t images = std::min(maps_[i].group, x_.n - first);
        after = current;
        for (size_t j = i; j < end; j++) after = add_step(j, j + 1 == end ? current : nullptr, after, first, images);
      }
      current = after;
      i = end;
    }
    if (half_out_) add_to_half(current);
    return pieces;
  }

 private:
  // Steps of equal group size share the loop over groups: [i, run_end(i)). What one step of a run hands to the next lives in a
  // `local_` buffer, which the next group of images uses again, so that a batch of large maps stays in the caches; only the last
  // step of a run writes for the whole batch, into a `whole_` buffer.
  size_t run_end(size_t i) const {
    size_t end = i + 1;
    while (end < steps_.size() && maps_[end].group == maps_[i].group) end++;
    return end;
  }
  bool is_local(const char* map) const { return map == local_[0] || map == local_[1]; }
  bool is_own(const char* map) const { return is_local(map) || map == whole_[0] || map == whole_[1]; }
  // The first of a group's images in a map.
  int64_t offset(const char* map, int64_t first, int64_t image) const { return is_local(map) ? 0 : first * image; }

  void add_to_half(const char* current) {
    const Step& s = steps_.back();
    const Map& m = maps_.back();
    const bool head = s.kind == StepKind::head;
    const int64_t count = x_.n * (head ? (s.c_out ? s.c_out : s.c_in) : s.c_out * m.out_h * m.out_w);
    plan_.add_to_half(reinterpret_cast<const float*>(current), reinterpret_cast<uint16_t*>(out_), count);
  }

  void size_buffers() {
    whole_bytes_ = x_.n * x_.h * x_.w * x_.c * pixel_ * (steps_[0].kind != StepKind::conv);  // a copy of the input
    size_t end = 0;
    for (size_t i = 0; i < steps_.size(); i++) {
      const Step& s = steps_[i];
      const Map& m = maps_[i];
      const int64_t g = m.group, out_area = m.out_h * m.out_w;
      if (i == end) end = run_end(i);
      if (s.kind == StepKind::head) {
        sums_ = std::max(sums_, x_.n * s.c_in);
        gate_ = std::max(gate_, x_.n * s.c_in);
        whole_bytes_ = std::max(whole_bytes_, x_.n * std::max(s.c_in, s.c_out) * 4);
        continue;
      }
      int64_t& bytes = i + 1 == end ? whole_bytes_ : local_bytes_;
      bytes = std::max(bytes, (i + 1 == end ? x_.n : g) * out_area * s.c_out * pixel_);
      if (s.kind == StepKind::conv) {
        padded_bytes_ = std::max(padded_bytes_, g * (m.in_h + 2 * s.padding) * (m.in_w + 2 * s.padding) * s.c_in * 4);
      } else {
        padded_bytes_ = std::max(padded_bytes_, m.strips > 1 ? strip_bytes(s, m) * plan_.workers : m.at_once * m.padded_h * m.padded_w * s.c_mid * pixel_);
        middle_bytes_ = std::max(middle_bytes_, g * out_area * s.c_mid * pixel_);
        if (m.winograd)
          for (const GroupRuns runs(s.c_mid / s.group_width, s.group_width); const GroupRun& run : runs.run) {
            const int64_t width = s.group_width, lanes = width * run.together;
            if (run.count)
              scratch_ = std::max(scratch_, type_ == Type::bf16 ? winograd_bf16_scratch_words(lanes)
                                            : s.stride == 2     ? winograd_strided_scratch_words(lanes, width)
                                                                : winograd_scratch_words(lanes, width));
          }
        if (s.se_width > 0) {
          for (int64_t images = 1; images <= g; images++) sums_ = std::max(sums_, images * pool_slots(s, m, images, choices_[i].b) * s.c_mid);
          hidden_ = std::max(hidden_, g * s.se_width);
          gate_ = std::max(gate_, g * s.c_mid);
          scratch_ = std::max(scratch_, plan_.scratch_words(s.c_mid, choices_[i].c));
        }
        if (s.has_pairs) {
          scratch_ = std::max(scratch_, plan_.scratch_words(s.c_in, choices_[i].a));
          scratch_ = std::max(scratch_, plan_.scratch_words(s.c_mid + (s.has_projection ? s.c_in : 0), choices_[i].c));
        }
      }
    }
  }

  std::vector<size_t> take_buffers() {
    std::vector<size_t> pieces;
    const auto take = [&](int64_t bytes) {
      pieces.push_back(static_cast<size_t>(bytes));
      return relative_to(kFirstPiece + static_cast<Base>(pieces.size()) - 1);
    };
    const auto take_floats = [&](int64_t count) { return reinterpret_cast<float*>(take(count * 4)); };
    for (char*& buffer : whole_) buffer = take(whole_bytes_);
    for (char*& buffer : local_) buffer = take(local_bytes_);
    padded_ = take(padded_bytes_);
    middle_ = take(middle_bytes_);
    sums_at_ = take_floats(sums_);
    hidden_at_ = take_floats(hidden_);
    gate_at_ = take_floats(gate_);
    pooled_at_ = take_floats(gate_ * plan_.workers);
    plan_.set_scratch(reinterpret_cast<uint32_t*>(take(scratch_ * 4 * plan_.workers)), scratch_);
    return pieces;
  }

  // Where step j writes: the caller's tensor for the last one; its input's own buffer, if its shortcut is the identity (each
  // element is read just before it is overwritten) and the buffer suits; else a buffer that is not its input, and for the last step
  // of a run not that of the run's input either, `run_in`, which is null for the others.
  char* output_of(size_t j, const char* run_in, const char* in) const {
    if (j + 1 == steps_.size() && !half_out_) return out_;
    const Step& s = steps_[j];
    if (s.kind == StepKind::block && !s.has_projection && is_own(in) && !(run_in && is_local(in))) return const_cast<char*>(in);
    char* const* const buffers = run_in ? whole_ : local_;
    return buffers[0] == (run_in ? run_in : in) ? buffers[1] : buffers[0];
  }

  const char* add_step(size_t j, const char* run_in, const char* in, int64_t first, int64_t images) {
    char* const out = output_of(j, run_in, in);
    const Step& s = steps_[j];
    plan_.set_step(static_cast<int>(j));
    LayerMade made = made_[j];
    if (s.kind == StepKind::conv) add_stem(s, maps_[j], choices_[j], made, j == 0, in, out, first, images);
    else if (s.kind == StepKind::block) add_block(s, maps_[j], choices_[j], made, in, out, first, images);
    else add_head(s, maps_[j], choices_[j], made, in, out);
    if (first == 0) made_[j] = made;  // of the first, a whole group of images
    return out;
  }

  void set_output(Conv& c, int64_t channels, const Map& m, Type type, void* y) const {
    c.y_type = type;
    c.y = y;
    c.y_pixel = channels;
    c.y_row = channels * m.out_w;
    c.y_image = channels * m.out_w * m.out_h;
    c.out_h = static_cast<int>(m.out_h);
    c.out_w = static_cast<int>(m.out_w);
  }

  void add_stem(const Step& s, const Map& m, const LayerChoice& choice, LayerMade& made, bool is_input, const char* in, char* out, int64_t first, int64_t images) {
    TensorView view = x_;
    if (!is_input) {
      const int64_t c = s.c_in;
      view = {type_ == Type::f32 ? Scalar::f32 : Scalar::bf16, in, x_.n, c, m.in_h, m.in_w, c * m.in_w * m.in_h, 1, c * m.in_w, c};
    }
    plan_.add_load(view, is_local(in) ? 0 : first, images, s.padding, nullptr, Type::f32, padded_);
    zeros_ = {};
    Conv c{};
    const int64_t groups = s.c_in / s.group_width;
    set_window(c, plan_, Type::f32, padded_, m.in_h + 2 * s.padding, m.in_w + 2 * s.padding, s.c_in, groups, s.kernel, s.kernel, s.stride);
    c.w = reinterpret_cast<const uint32_t*>(params_ + s.conv_w);
    c.w_group = panel_lanes(s.c_out / groups) * s.kernel * s.kernel * s.group_width;
    c.bias = params_ + s.conv_bias;
    c.groups = static_cast<int>(groups);
    c.group_out = static_cast<int>(s.c_out / groups);
    c.activation = s.activation;
    set_output(c, s.c_out, m, type_, out + offset(out, first, m.out_h * m.out_w * s.c_out * pixel_));
    made.a = plan_.add_conv(c, images, choice.a);
  }

  // A 3x3 as one convolution for each run of its groups.
  struct GroupedConv {
    Conv run[kMostRuns];
    int size;
  };
  GroupedConv grouped_conv(const Step& s, const Map& m, const char* padded, char* middle) {
    const GroupRuns runs(s.c_mid / s.group_width, s.group_width);
    const int64_t width = s.group_width, per_word = type_ == Type::f32 ? 1 : 2;
    GroupedConv all{};
    all.size = runs.size;
    Conv one{};
    set_window(one, plan_, type_, padded, m.padded_h, m.padded_w, s.c_mid, s.c_mid / width, 3, 3, s.stride);
    one.activation = s.activation;
    set_output(one, s.c_mid, m, type_, middle);
    if (s.se_width > 0) one.pool = sums_at_, one.pool_stride = s.c_mid;
    for (int i = 0; i < runs.size; i++) {
      const GroupRun& run = runs.run[i];
      const int64_t first = run.first * width;
      Conv& c = all.run[i] = one;
      c.words = static_cast<int>(run.together);
      c.group_out = static_cast<int>(run.together * width);
      c.groups = static_cast<int>(run.count);
      c.fold = run.together == 1 && packs_pairs(width, width);
      if (c.fold) c.words = 2, c.steps /= 2;
      c.x += first / per_word;
      c.y = static_cast<char*>(c.y) + first * pixel_;
      c.w = words(s.b) + first * 9 * width / per_word;
      c.w_group = panel_lanes(c.group_out) * 9 * width / per_word;
      c.bias = params_ + s.b_bias + first;
      if (c.pool) c.pool += first;
    }
    return all;
  }

  struct WinogradConv {
    Winograd run[kMostRuns];
    int size;
  };
  WinogradConv winograd_conv(const Step& s, const Map& m, const Strip& strip, char* middle) {
    const GroupedConv direct = grouped_conv(s, m, padded_, middle);
    const int64_t tile = s.stride == 2 ? 2 : 4;
    WinogradConv all{};
    all.size = direct.size;
    for (int i = 0; i < direct.size; i++) {
      const Conv& c = direct.run[i];
      Winograd& w = all.run[i];
      w.x = reinterpret_cast<const float*>(c.x);
      w.x_pixel = c.x_pixel, w.x_row = c.x_row, w.x_image = c.x_image;
      w.w = c.w, w.w_group = c.w_group, w.fold = c.fold, w.bias = c.bias;
      w.group_width = static_cast<int>(s.group_width), w.together = c.group_out / w.group_width, w.groups = c.groups;
      w.y = static_cast<float*>(c.y);
      w.y_pixel = c.y_pixel, w.y_row = c.y_row, w.y_image = c.y_image;
      w.activation = c.activation;
      w.pool = c.pool, w.pool_stride = c.pool_stride;
      w.stride = static_cast<int>(s.stride);
      w.out_h = static_cast<int>(strip.last - strip.first), w.out_w = c.out_w;
      w.tiles_h = static_cast<int>((w.out_h + tile - 1) / tile), w.tiles_w = static_cast<int>((w.out_w + tile - 1) / tile);
    }
    if (s.se_width > 0) {
      all.run[0].next[0] = reinterpret_cast<const char*>(params_ + s.se_w1);
      all.run[0].next[1] = reinterpret_cast<const char*>(params_ + s.se_w2t);
      all.run[0].next_bytes = s.se_width * s.c_mid * 4;
    }
    return all;
  }

  int64_t strip_slots(const Step& s, const Map& m, int64_t i, int64_t images, const CutChoice& choice) {
    const Strip strip = strip_of(s, m, i);
    if (m.winograd) {
      WinogradConv b = winograd_conv(s, m, strip, nullptr);
      float anywhere;
      b.run[0].pool = &anywhere;  // where it will be may not be known yet
      return plan_.pool_slots(b.run, b.size, images, choice, m.strips > 1);
    }
    Conv b = grouped_conv(s, m, nullptr, nullptr).run[0];
    b.out_h = static_cast<int>(strip.last - strip.first);
    return plan_.pool_slots(b, choice, m.strips > 1);
  }

  struct WinogradBf16Conv {
    WinogradBf16 run[kMostRuns];
    int size;
  };
  WinogradBf16Conv winograd_bf16_conv(const Step& s, const Map& m) {
    const GroupedConv direct = grouped_conv(s, m, padded_, middle_);
    const GroupRuns runs(s.c_mid / s.group_width, s.group_width);
    WinogradBf16Conv all{};
    all.size = direct.size;
    for (int i = 0; i < direct.size; i++) {
      const Conv& c = direct.run[i];
      WinogradBf16& w = all.run[i];
      w.x = reinterpret_cast<const uint16_t*>(c.x);
      w.x_pixel = 2 * c.x_pixel, w.x_row = 2 * c.x_row, w.x_image = 2 * c.x_image;
      w.u = words(s.u + 16 * runs.run[i].first * s.group_width * s.group_width);
      w.bias = c.bias;
      w.group_width = static_cast<int>(s.group_width), w.together = c.group_out / w.group_width, w.groups = c.groups;
      w.y = static_cast<uint16_t*>(c.y);
      w.y_pixel = c.y_pixel, w.y_row = c.y_row, w.y_image = c.y_image;
      w.activation = c.activation;
      w.pool = c.pool, w.pool_stride = c.pool_stride;
      w.out_h = c.out_h, w.out_w = c.out_w;
      w.tiles_h = (w.out_h + 1) / 2, w.tiles_w = (w.out_w + 1) / 2;
    }
    return all;
  }

  // Images of `images` that go through a block's 1x1 and 3x3 together. By Winograd with sums as many each time, so that all have as many slots.
  static int64_t at_once_of(const Step& s, const Map& m, int64_t images) {
    int64_t at_once = std::min(m.at_once, images);
    while (m.winograd && s.se_width > 0 && images % at_once != 0) at_once--;
    return at_once;
  }

  int64_t pool_slots(const Step& s, const Map& m, int64_t images, const CutChoice& choice) {
    if (m.winograd && type_ == Type::bf16) {
      float anywhere;
      WinogradBf16 b = winograd_bf16_conv(s, m).run[0];
      b.pool = &anywhere;
      return plan_.pool_slots(b, images, choice);
    }
    int64_t slots = 0;
    for (int64_t i = 0; i < m.strips; i++) slots += strip_slots(s, m, i, at_once_of(s, m, images), choice);
    return slots;
  }

  // The 3x3 of `images` images, or of a strip. Its sums begin at `slot` of the first one's.
  CutMade add_grouped(const Step& s, const Map& m, const Strip& strip, const CutChoice& choice, char* middle, int64_t images, int64_t slot) {
    const int64_t each = m.strips > 1 ? strip_bytes(s, m) : 0;
    if (m.winograd && type_ == Type::bf16) {
      const WinogradBf16Conv b = winograd_bf16_conv(s, m);
      return plan_.add_winograds(b.run, b.size, images, choice);
    }
    if (m.winograd) {
      WinogradConv b = winograd_conv(s, m, strip, middle);
      for (Winograd& w : b.run) {
        w.x_each = each;
        if (w.pool) w.pool += slot * s.c_mid;
      }
      return plan_.add_winograds(b.run, b.size, images, choice);
    }
    GroupedConv b = grouped_conv(s, m, padded_, middle);
    for (Conv& c : b.run) {
      c.x_each = each;
      c.out_h = static_cast<int>(strip.last - strip.first);
      if (c.pool) c.pool += slot * s.c_mid;
    }
    return plan_.add_convs(b.run, b.size, images, choice);
  }

  // A block's 1x1 and 3x3 of `images` images, phase by phase.
  void add_expanded(const Step& s, const Map& m, const LayerChoice& choice, LayerMade& made, Conv a, const char* x, int64_t images, int64_t slots) {
    const Strip whole = strip_of(s, m, 0);
    const int64_t at_once = at_once_of(s, m, images);
    for (int64_t image = 0; image < images; image += at_once) {
      const int64_t here = std::min(at_once, images - image);
      a.x = reinterpret_cast<const uint32_t*>(x + image * m.in_h * m.in_w * s.c_in * pixel_);
      a.y = padded_ + (m.padded_w + 1) * s.c_mid * pixel_;
      a.out_h = static_cast<int>(m.in_h);
      // The border stays zero as long as the same shape uses the buffer.
      const Zeros zeros{{padded_, 1, m.in_h, m.in_w, m.padded_h, m.padded_w, s.c_mid * pixel_}, here};
      const bool covered = zeros.covered_by(zeros_);
      const CutMade made_a = plan_.add_conv(a, here, choice.a, covered ? nullptr : &zeros.border);
      if (!covered) zeros_ = zeros;
      const CutMade made_b = add_grouped(s, m, whole, choice.b, middle_ + image * m.out_h * m.out_w * s.c_mid * pixel_, here, image * slots);
      if (image == 0) made.a = made_a, made.b = made_b;
    }
  }

  // Bytes of a worker's buffer for strips.
  int64_t strip_bytes(const Step& s, const Map& m) const { return (m.padded_h * m.padded_w * s.c_mid * pixel_ + 63) / 64 * 64; }

  // The same of one image, each strip by one worker. A row or two at a strip's edge are computed twice.
  void add_strips(const Step& s, const Map& m, const LayerChoice& choice, LayerMade& made, Conv a, const char* x) {
    int64_t slots = 0, in_done = 0;
    a.y_each = strip_bytes(s, m);
    for (int64_t i = 0; i < m.strips; i++) {
      const Strip strip = strip_of(s, m, i);
      a.x = reinterpret_cast<const uint32_t*>(x + strip.in_first * m.in_w * s.c_in * pixel_);
      a.y = padded_ + (strip.top * m.padded_w + 1) * s.c_mid * pixel_;
      a.out_h = static_cast<int>(strip.in_last - strip.in_first);
      plan_.begin_strip({padded_, strip.top, a.out_h, m.in_w, strip.padded, m.padded_w, s.c_mid * pixel_}, a.y_each);
      const CutMade made_a = plan_.add_conv(a, 1, choice.a, nullptr, std::max<int64_t>(0, in_done - strip.in_first));
      in_done = strip.in_last;
      const CutMade made_b = add_grouped(s, m, strip, choice.b, middle_ + strip.first * m.out_w * s.c_mid * pixel_, 1, slots);
      slots += strip_slots(s, m, i, 1, choice.b);
      if (i == 0) made.a = made_a, made.b = made_b;
    }
    plan_.end_strips();
    zeros_ = {};
  }

  void add_block(const Step& s, const Map& m, const LayerChoice& choice, LayerMade& made, const char* in, char* out, int64_t first, int64_t images) {
    const int64_t in_words = s.c_in * pixel_ / 4, mid_words = s.c_mid * pixel_ / 4;
    int64_t made_a = 0, made_c = 0;
    const char* x = in + offset(in, first, m.in_h * m.in_w * s.c_in * pixel_);
    char* const y = out + offset(out, first, m.out_h * m.out_w * s.c_out * pixel_);

    // 1x1, written into the interior of a padded buffer: the 3x3 then needs no edge tests
    Conv a{};
    set_window(a, plan_, type_, x, m.in_h, m.in_w, s.c_in, 1, 1, 1, 1);
    a.w = words(s.a);
    a.bias = params_ + s.a_bias;
    a.groups = 1;
    a.group_out = static_cast<int>(s.c_mid);
    a.activation = s.activation;
    a.y_type = type_;
    a.y_pixel = s.c_mid;
    a.y_row = s.c_mid * m.padded_w;
    a.y_image = s.c_mid * m.padded_w * m.padded_h;
    a.out_w = static_cast<int>(m.in_w);
    choose_pairs(s, a, images * m.in_h * m.in_w, s.a_pairs, choice.a, made_a);
    const int64_t all_slots = s.se_width > 0 ? pool_slots(s, m, images, choice.b) : 0;
    if (m.strips > 1) add_strips(s, m, choice, made, a, x);
    else add_expanded(s, m, choice, made, a, x, images, all_slots);

    Conv c{};
    set_window(c, plan_, type_, middle_, m.out_h, m.out_w, s.c_mid, 1, 1, 1, 1);
    c.steps = static_cast<int>(mid_words);
    if (s.se_width > 0) c.gate = gate_at_, c.gate_image = s.c_mid;
    if (s.has_projection) {
      c.x2 = reinterpret_cast<const uint32_t*>(x);
      c.x2_pixel = in_words * s.stride;
      c.x2_row = in_words * m.in_w * s.stride;
      c.x2_image = in_words * m.in_w * m.in_h;
      c.steps2 = static_cast<int>(in_words);
    } else {
      c.residual = x;
    }
    c.w = words(s.c);
    c.bias = params_ + s.c_bias;
    c.groups = 1;
    c.group_out = static_cast<int>(s.c_out);
    c.activation = s.activation;
    set_output(c, s.c_out, m, type_, y);
    choose_pairs(s, c, images * m.out_h * m.out_w, s.c_pairs, choice.c, made_c);

    if (s.se_width > 0) {
      SqueezeExcite se{};
      se.sums = sums_at_;
      se.slots = all_slots;
      se.inverse_count = 1.0f / static_cast<float>(m.out_h * m.out_w);
      se.w1 = params_ + s.se_w1, se.b1 = params_ + s.se_b1, se.w2t = params_ + s.se_w2t, se.b2 = params_ + s.se_b2;
      se.hidden = hidden_at_, se.gate = gate_at_, se.pooled = pooled_at_;
      if (plan_.repeats_pixels(c, images, choice.c)) {
        se.type = type_, se.map = middle_, se.pixels = m.out_h * m.out_w;
        c.gate = nullptr;
      }
      se.images = static_cast<int>(images), se.channels = static_cast<int>(s.c_mid), se.squeeze = static_cast<int>(s.se_width);
      plan_.add_squeeze_excite(se);
    }
    made.c = plan_.add_conv(c, images, choice.c);
    made.a.pairs = made_a, made.c.pairs = made_c;
  }

  // made: as CutMade::pairs
  void choose_pairs(const Step& s, Conv& c, int64_t pixels, int64_t sums, const CutChoice& choice, int64_t& made) {
    if (!s.has_pairs || !can_pair(c, plan_.k)) return;
    made = choice.pairs ? choice.pairs : use_pairs(c, pixels) ? 2 : 1;
    if (made == 2) c.pairs = params_ + sums;
  }

  void add_head(const Step& s, const Map& m, const LayerChoice& choice, LayerMade& made, const char* in, char* out) {
    char* const means = s.c_out == 0 ? out : reinterpret_cast<char*>(gate_at_);
    plan_.add_sum_pixels(type_, in, x_.n, m.in_h * m.in_w, s.c_in, sums_at_, means);
    if (s.c_out == 0) return;
    Conv c{};
    set_window(c, plan_, type_, means, 1, x_.n, s.c_in, 1, 1, 1, 1);
    c.w = words(s.fc);
    c.bias = params_ + s.fc_bias;
    c.groups = 1;
    c.group_out = static_cast<int>(s.c_out);
    c.activation = Activation::none;
    set_output(c, s.c_out, Map{1, x_.n, 1, x_.n, x_.n}, type_, out);
    made.a = plan_.add_conv(c, 1, choice.a);
  }

  const uint32_t* words(int64_t element) const { return reinterpret_cast<const uint32_t*>(weights_ + element * pixel_); }

  TensorView x_;
  const Type type_;
  const char* const weights_ = relative_to(kWeights);
  const float* const params_ = reinterpret_cast<const float*>(relative_to(kParams));
  const std::vector<Step>& steps_;
  char* const out_ = relative_to(kOut);
  Plan& plan_;
  std::vector<LayerMade>& made_;
  std::vector<LayerChoice> choices_;  // of the steps
  const int64_t pixel_;  // bytes of an activation
  const bool half_out_;
  std::vector<Map> maps_;
  int64_t whole_bytes_ = 0, local_bytes_ = 0, padded_bytes_ = 0, middle_bytes_ = 0, sums_ = 0, hidden_ = 0, gate_ = 0, scratch_ = 0;
  char *whole_[2] = {}, *local_[2] = {}, *padded_ = nullptr, *middle_ = nullptr;
  float *sums_at_ = nullptr, *hidden_at_ = nullptr, *gate_at_ = nullptr, *pooled_at_ = nullptr;
  Zeros zeros_{};
};

}  // namespace

Shape network_output(const std::vector<Step>& steps, int64_t c, int64_t h, int64_t w) {
  if (c != steps[0].c_in)
    throw std::invalid_argument("regnet_kernels: x has " + std::to_string(c) + " channels, the packed network takes " +
                                std::to_string(steps[0].c_in));
  for (size_t i = 0; i < steps.size(); i++) {
    const Step& s = steps[i];
    if (s.kind == StepKind::head) return {s.c_out ? s.c_out : s.c_in, 1, 1, true};
    if (h + 2 * s.padding < s.kernel || w + 2 * s.padding < s.kernel || h < 1 || w < 1)
      throw std::invalid_argument("regnet_kernels: step " + std::to_string(i) + " gets a " + std::to_string(h) + "x" + std::to_string(w) +
                                  " map, smaller than its kernel; use a larger image");
    h = s.out_side(h), w = s.out_side(w);
    c = s.c_out;
  }
  return {c, h, w, false};
}

NetworkCall::NetworkCall(const TensorView& x, Type type, const PackedProgram& program, int workers)
    : x_(x.data) {
  std::shared_ptr<const Choices> choices;
  plan_ = take_plan(x, type, program, workers, choices);
  if (plan_) return;
  const std::vector<Step> steps = parse_program(program.ints, program.length, type, program.weights_count, program.params_count);
  const PlanKey key{x, type, workers, program.weights_count, program.params_count, {program.ints, program.ints + program.length}};
  plan_.reset(new NetworkPlan{key, network_output(steps, x.c, x.h, x.w), Plan(kernels(), workers), choices, {}, {}});
  if (x.n > 0) plan_->pieces = Builder(x, type, steps, *choices, plan_->plan, plan_->layers).build();
}

NetworkCall::~NetworkCall() { keep_plan(std::move(plan_)); }

const Shape& NetworkCall::output() const { return plan_->output; }
const std::vector<LayerMade>& NetworkCall::layers() const { return plan_->layers; }

template <class Body>
void NetworkCall::with_bound_plan(const void* weights, const float* params, void* out, const Body& body) {
  size_t bytes = 0;
  for (const size_t piece : plan_->pieces) bytes += Arena::padded(piece);
  if (bytes == 0) return;  // no images
  Arena arena(bytes);
  char* bases[kMaxBases];
  bases[kX] = static_cast<char*>(const_cast<void*>(x_));  // which is only read
  bases[kOut] = static_cast<char*>(out);
  bases[kWeights] = static_cast<char*>(const_cast<void*>(weights));
  bases[kParams] = reinterpret_cast<char*>(const_cast<float*>(params));
  int count = kFirstPiece;
  for (const size_t piece : plan_->pieces) bases[count++] = arena.take<char>(piece);
  plan_->plan.bind(bases, count);
  body(plan_->plan);
}

void NetworkCall::run(const void* weights, const float* params, void* out, const Fork& fork) {
  with_bound_plan(weights, params, out, [&](Plan& plan) { plan.run(fork); });
}

std::vector<PhaseTime> NetworkCall::profile(const void* weights, const float* params, void* out, const Fork& fork, int repeats) {
  std::vector<PhaseTime> times;
  with_bound_plan(weights, params, out, [&](Plan& plan) {
    // A phase of several kinds of work counts as one of each kind, which get the shares of its seconds that its workers spent on them.
    const auto parts_of = [](const Phase& phase) {
      std::vector<PhasePart> parts = phase.body->take_parts();
      if (parts.empty()) parts.push_back({phase.work, phase.macs, 1});
      return parts;
    };
    for (const Phase& phase : plan.phases())
      for (const PhasePart& part : parts_of(phase)) times.push_back({phase.step, part.work, part.macs, {}});
    std::vector<double> seconds(plan.phases().size());
    for (int r = 0; r < repeats; r++) {
      plan.run(fork, seconds.data());
      auto time = times.begin();
      for (size_t i = 0; i < seconds.size(); i++) {
        const std::vector<PhasePart> parts = parts_of(plan.phases()[i]);
        double all = 0;
        for (const PhasePart& part : parts) all += part.seconds;
        for (const PhasePart& part : parts) (time++)->seconds.push_back(seconds[i] * part.seconds / all);
      }
    }
  });
  return times;
}

}  // namespace regnet_kernels::cpu
