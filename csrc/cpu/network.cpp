#include "network.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "arena.h"
#include "isa.h"
#include "plan.h"

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
};

// Is Winograd worth it? Each group's 36 transformed matrices (four times the plain weights) are read once a pass, so there must
// be tiles to use them on.
bool use_winograd(const Step& s, const Map& m) {
  if (!s.has_winograd) return false;
  const int64_t tiles = ((m.out_h + 3) / 4) * ((m.out_w + 3) / 4);
  return m.group * tiles >= 12;
}

struct Border {  // whose zeros the padded buffer holds
  int64_t channels, h, w, padded_h, padded_w, images;
  bool covered_by(const Border& o) const {
    return channels == o.channels && h == o.h && w == o.w && padded_h == o.padded_h && padded_w == o.padded_w && images <= o.images;
  }
};

class Builder {
 public:
  Builder(const TensorView& x, Type type, const void* weights, const float* params, const std::vector<Step>& steps, void* out,
          int workers)
      : x_(x), type_(type), weights_(static_cast<const char*>(weights)), params_(params), steps_(steps), out_(static_cast<char*>(out)),
        plan_(kernels(), workers), pixel_(type_bytes(type)), half_out_(x.scalar == Scalar::f16) {
    int64_t h = x.h, w = x.w;
    for (const Step& s : steps) {
      Map m{h, w, s.out_side(h), s.out_side(w), 0, false, h + 2, w + 2};
      m.group = images_per_group(x.n, m.out_h, m.out_w);
      if (s.kind == StepKind::block && use_winograd(s, m)) {
        m.winograd = true;
        m.padded_h = (h + 3) / 4 * 4 + 2, m.padded_w = (w + 3) / 4 * 4 + 2;
      }
      if (s.kind == StepKind::head) m.group = x.n;
      maps_.push_back(m);
      h = m.out_h, w = m.out_w;
    }
  }

  // Runs the phases; with `profile` `repeats` times, noting each phase's time. One that is repeated reads the same inputs again.
  void run(const Fork& fork, std::vector<PhaseTime>* profile = nullptr, int repeats = 1) {
    size_buffers();
    Arena arena(arena_bytes());
    take_buffers(arena);
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
    if (!profile) return plan_.run(fork);
    const std::vector<Phase>& phases = plan_.phases();
    for (const Phase& phase : phases) profile->push_back({phase.step, phase.work, phase.macs, {}});
    std::vector<double> seconds(phases.size());
    for (int r = 0; r < repeats; r++) {
      plan_.run(fork, seconds.data());
      for (size_t i = 0; i < phases.size(); i++) (*profile)[i].seconds.push_back(seconds[i]);
    }
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
    const int64_t parts = std::clamp<int64_t>(count / 16384, 1, 4 * plan_.workers);
    uint16_t* const to = reinterpret_cast<uint16_t*>(out_);
    plan_.add(Work::store, parts, [=](int t, int) {
      const int64_t begin = count * t / parts, end = count * (t + 1) / parts;
      float_to_half(reinterpret_cast<const float*>(current) + begin, to + begin, end - begin);
    });
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
        padded_bytes_ = std::max(padded_bytes_, g * m.padded_h * m.padded_w * s.c_mid * pixel_);
        middle_bytes_ = std::max(middle_bytes_, g * out_area * s.c_mid * pixel_);
        if (m.winograd) scratch_ = std::max(scratch_, winograd_scratch_words(s.group_width * interleave(s.group_width)));
        if (s.se_width > 0) {
          for (int64_t images = 1; images <= g; images++) sums_ = std::max(sums_, images * pool_slots(s, m, images) * s.c_mid);
          hidden_ = std::max(hidden_, g * s.se_width);
          gate_ = std::max(gate_, g * s.c_mid);
          scratch_ = std::max(scratch_, Plan::scratch_words(s.c_mid));
        }
      }
    }
  }

  size_t arena_bytes() const {
    return 2 * Arena::padded(whole_bytes_) + 2 * Arena::padded(local_bytes_) + Arena::padded(padded_bytes_) +
           Arena::padded(middle_bytes_) + Arena::padded(sums_ * 4) + Arena::padded(hidden_ * 4) + Arena::padded(gate_ * 4) + Arena::padded(gate_ * 4 * plan_.workers) +
           Arena::padded(scratch_ * 4 * plan_.workers);
  }

  void take_buffers(Arena& arena) {
    for (char*& buffer : whole_) buffer = arena.take<char>(whole_bytes_);
    for (char*& buffer : local_) buffer = arena.take<char>(local_bytes_);
    padded_ = arena.take<char>(padded_bytes_);
    middle_ = arena.take<char>(middle_bytes_);
    sums_at_ = arena.take<float>(sums_);
    hidden_at_ = arena.take<float>(hidden_);
    gate_at_ = arena.take<float>(gate_);
    pooled_at_ = arena.take<float>(gate_ * plan_.workers);
    plan_.set_scratch(arena.take<uint32_t>(scratch_ * plan_.workers), scratch_);
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
    if (s.kind == StepKind::conv) add_stem(s, maps_[j], j == 0, in, out, first, images);
    else if (s.kind == StepKind::block) add_block(s, maps_[j], in, out, first, images);
    else add_head(s, maps_[j], in, out);
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

  void add_stem(const Step& s, const Map& m, bool is_input, const char* in, char* out, int64_t first, int64_t images) {
    TensorView view = x_;
    if (!is_input) {
      const int64_t c = s.c_in;
      view = {type_ == Type::f32 ? Scalar::f32 : Scalar::bf16, in, x_.n, c, m.in_h, m.in_w, c * m.in_w * m.in_h, 1, c * m.in_w, c};
    }
    plan_.add_load(view, is_local(in) ? 0 : first, images, s.padding, nullptr, Type::f32, padded_);
    border_ = {};
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
    plan_.add_conv(c, images);
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
  WinogradConv winograd_conv(const Step& s, const Map& m) const {
    const GroupRuns runs(s.c_mid / s.group_width, s.group_width);
    WinogradConv all{};
    all.size = runs.size;
    for (int i = 0; i < runs.size; i++) {
      const GroupRun& run = runs.run[i];
      const int64_t first = run.first * s.group_width;
      Winograd& w = all.run[i];
      w.type = type_;
      w.x = padded_ + first * pixel_;
      w.x_pixel = s.c_mid, w.x_row = s.c_mid * m.padded_w, w.x_image = s.c_mid * m.padded_w * m.padded_h;
      w.u = params_ + s.winograd + 36 * first * s.group_width;
      w.bias = params_ + s.b_bias + first;
      w.group_width = static_cast<int>(s.group_width), w.together = static_cast<int>(run.together), w.groups = static_cast<int>(run.count);
      w.y = middle_ + first * pixel_;
      w.y_pixel = s.c_mid, w.y_row = s.c_mid * m.out_w, w.y_image = s.c_mid * m.out_w * m.out_h;
      w.activation = s.activation;
      if (s.se_width > 0) w.pool = sums_at_ + first, w.pool_stride = s.c_mid;
      w.out_h = static_cast<int>(m.out_h), w.out_w = static_cast<int>(m.out_w);
      w.tiles_h = (w.out_h + 3) / 4, w.tiles_w = (w.out_w + 3) / 4;
    }
    return all;
  }

  int64_t pool_slots(const Step& s, const Map& m, int64_t images) {
    return m.winograd ? plan_.pool_slots(winograd_conv(s, m).run[0], images) : plan_.pool_slots(grouped_conv(s, m, nullptr, nullptr).run[0]);
  }

  void add_block(const Step& s, const Map& m, const char* in, char* out, int64_t first, int64_t images) {
    const int64_t in_words = s.c_in * pixel_ / 4, mid_words = s.c_mid * pixel_ / 4;
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
    a.y = padded_ + (m.padded_w + 1) * s.c_mid * pixel_;
    a.y_pixel = s.c_mid;
    a.y_row = s.c_mid * m.padded_w;
    a.y_image = s.c_mid * m.padded_w * m.padded_h;
    a.out_h = static_cast<int>(m.in_h);
    a.out_w = static_cast<int>(m.in_w);
    // The border stays zero as long as the same shape uses the buffer.
    const Border border{s.c_mid, m.in_h, m.in_w, m.padded_h, m.padded_w, images};
    if (border.covered_by(border_)) {
      plan_.add_conv(a, images);
    } else {
      char* const padded = padded_;
      const int64_t pixel_bytes = s.c_mid * pixel_;
      plan_.add_conv(a, images, static_cast<int>(images), [=](int n) {
        zero_border(padded + n * border.padded_h * border.padded_w * pixel_bytes, border.h, border.w, border.padded_h, border.padded_w, pixel_bytes);
      });
      border_ = border;
    }

    if (m.winograd) {
      const WinogradConv b = winograd_conv(s, m);
      plan_.add_winograds(b.run, b.size, images);
    } else {
      const GroupedConv b = grouped_conv(s, m, padded_, middle_);
      plan_.add_convs(b.run, b.size, images);
    }

    if (s.se_width > 0) {
      SqueezeExcite se{};
      se.sums = sums_at_;
      se.slots = pool_slots(s, m, images);
      se.inverse_count = 1.0f / static_cast<float>(m.out_h * m.out_w);
      se.w1 = params_ + s.se_w1, se.b1 = params_ + s.se_b1, se.w2t = params_ + s.se_w2t, se.b2 = params_ + s.se_b2;
      se.hidden = hidden_at_, se.gate = gate_at_, se.pooled = pooled_at_;
      se.images = static_cast<int>(images), se.channels = static_cast<int>(s.c_mid), se.squeeze = static_cast<int>(s.se_width);
      plan_.add_squeeze_excite(se);
    }

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
    plan_.add_conv(c, images);
  }

  void add_head(const Step& s, const Map& m, const char* in, char* out) {
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
    plan_.add_conv(c, 1);
  }

  const uint32_t* words(int64_t element) const { return reinterpret_cast<const uint32_t*>(weights_ + element * pixel_); }

  const TensorView x_;
  const Type type_;
  const char* const weights_;
  const float* const params_;
  const std::vector<Step>& steps_;
  char* const out_;
  Plan plan_;
  const int64_t pixel_;  // bytes of an activation
  const bool half_out_;
  std::vector<Map> maps_;
  int64_t whole_bytes_ = 0, local_bytes_ = 0, padded_bytes_ = 0, middle_bytes_ = 0, sums_ = 0, hidden_ = 0, gate_ = 0, scratch_ = 0;
  char *whole_[2] = {}, *local_[2] = {}, *padded_ = nullptr, *middle_ = nullptr;
  float *sums_at_ = nullptr, *hidden_at_ = nullptr, *gate_at_ = nullptr, *pooled_at_ = nullptr;
  Border border_{};
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

void run_network(const TensorView& x, Type type, const void* weights, const float* params, const std::vector<Step>& steps, void* out,
                 int workers, const Fork& fork) {
  if (x.n == 0) return;
  Builder(x, type, weights, params, steps, out, workers).run(fork);
}

std::vector<PhaseTime> profile_network(const TensorView& x, Type type, const void* weights, const float* params,
                                       const std::vector<Step>& steps, void* out, int workers, const Fork& fork, int repeats) {
  std::vector<PhaseTime> times;
  if (x.n > 0) Builder(x, type, weights, params, steps, out, workers).run(fork, &times, repeats);
  return times;
}

}  // namespace regnet_kernels::cpu
