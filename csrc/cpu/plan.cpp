#include "plan.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "tasks.h"

namespace regnet_kernels::cpu {
namespace {

// What a task's input should fit into, in words, beside the weights that stream past it: half of a small L2, and its pixels. Processors
// with AVX-512 have 1 MiB of L2 and more; there a dense convolution takes twice as much, so that its weights pass half as often.
struct TaskInput {
  int64_t words, pixels;
};
constexpr int64_t kMostInputWords = 96 * 1024;
TaskInput task_input(const Conv& c, const Kernels& k) {
  return k.vector_floats == 16 && c.groups == 1 && c.words == 1 ? TaskInput{kMostInputWords, kMaxTaskPixels} : TaskInput{48 * 1024, 192};
}
constexpr int64_t kMinBlockPixels = 48; // each block streams all weights once: keep at least this many pixels against them
constexpr int64_t kMinPairPixels = 96;   // with pairs, which are scaled once a block

// How a convolution is cut into tasks: `blocks` runs of pixels (per image where sums are pooled) x `splits` runs of panels.
struct Cut {
  int64_t blocks, splits;
};

// Panels that stay in one task: whole groups where these are narrow, else the widest tile.
int64_t unit_panels(const Conv& c, const Kernels& k) {
  const bool narrow = (c.groups > 1 || c.words > 1) && c.panels_per_group() <= 7;
  return narrow ? c.panels_per_group() : c.pairs ? kPairPanels : k.preferred_panels;
}

// Groups share neither weights nor inputs, so a grouped convolution is cut along them first; a dense one along the pixels,
// since each run of pixels streams all weights, and only then along the panels.
Cut cut_conv(const Conv& c, int64_t pixels, int workers, const Kernels& k, const CutChoice& choice) {
  const int64_t pixel_words = c.steps * c.words * (c.taps > 1 ? 3 : 1) + c.steps2;  // fresh words that an output pixel brings into the cache
  const int64_t panels = c.panels();
  const int64_t macs = pixels * c.groups * c.group_out * c.reduction() * (c.type == Type::f32 ? 1 : 2);
  const int64_t want = workers == 1 ? 1 : std::clamp<int64_t>(macs / kTaskMacs, 1, (c.pairs ? kPairTasksPerWorker : kTasksPerWorker) * workers);
  const TaskInput most = task_input(c, k);
  int64_t block = std::clamp<int64_t>(most.words / pixel_words, 2 * k.pixel_tile, most.pixels);
  int64_t blocks = divide_up(pixels, block), splits = 1;
  const int64_t units = divide_up(panels, unit_panels(c, k));
  if (choice.block > 0) {
    block = std::clamp<int64_t>(choice.block, k.pixel_tile, kMaxTaskPixels - run_pixels(c));  // tasks are cut on whole runs
    return {divide_up(pixels, block), std::clamp<int64_t>(choice.splits, 1, units)};
  }
  if (c.groups > 1 || c.words > 1) {
    splits = std::min(divide_up(want, blocks), units);
  } else if (blocks < want) {
    blocks = std::min(want, std::max<int64_t>(blocks, pixels / (c.pairs ? kMinPairPixels : kMinBlockPixels)));  // smaller while they stay tall enough
    splits = std::min(divide_up(want, blocks), units);
  }
  // a whole number of tasks a worker, so that none is left alone with the last one
  if (workers > 1 && splits == 1 && blocks > 1 && blocks < 4 * kTasksPerWorker * workers)
    blocks = std::min(pixels, divide_up(blocks, workers) * workers);
  return {blocks, splits};
}

// The tasks of the phases. `pointers` shows a visitor each pointer that may be relative to a base.

// Which pixels a worker has in its scratch of a convolution with pairs: those of the run number `run`, no others.
struct alignas(64) Prepared {
  uint64_t run = 0;
  int64_t pixel0 = 0, pixel1 = 0;
};

template <int most>
struct ConvTasks {
  struct Part {
    Conv c;
    Cut cut;
    int tasks;
  };
  Part parts[most];
  int count, tasks;
  int64_t area, pixels, run, each;  // cut on multiples of `run` pixels
  const Kernels* kernels;
  uint32_t* scratch;
  Border border;
  int workers, all_tasks;  // with those of the border
  const uint64_t* run_number;
  std::unique_ptr<Prepared[]> prepared;  // of each worker, or null
  const TaskBody* next = nullptr;

  void operator()(int t, int worker) const {
    if (t >= tasks) {
      char* const image = border.images + (t - tasks) * border.padded_h * border.padded_w * border.pixel_bytes;
      return zero_border(image, border.top, border.h, border.w, border.padded_h, border.padded_w, border.pixel_bytes);
    }
    const Part* part;
    ConvTask task = task_of(t, part);
    const FirstWeights then = after(t);
    task.then = then.at, task.then_bytes = then.bytes;
    const Conv& c = part->c;
    if (prepared) {  // the splits of a block of pixels follow each other
      Prepared& p = prepared[worker];
      task.prepared = p.run == *run_number && p.pixel0 == task.pixel0 && p.pixel1 == task.pixel1;
      p = {*run_number, task.pixel0, task.pixel1};
    }
    if (c.x_each == 0 && c.y_each == 0) return kernels->conv(c, task, scratch + worker * each);
    Conv own = c;
    own.x += worker * c.x_each / 4;
    own.y = static_cast<char*>(c.y) + worker * c.y_each;
    kernels->conv(own, task, scratch + worker * each);
  }

  // What the worker of task t reads behind it: those of its next task, or of the next phase.
  FirstWeights after(int t) const {
    const int worker = static_cast<int>((static_cast<int64_t>(t + 1) * workers - 1) / all_tasks);  // whose part it is in
    if (t + 1 < tasks && t + 1 < static_cast<int64_t>(all_tasks) * (worker + 1) / workers) return weights_of(t + 1);
    return next ? next->first_weights(worker) : FirstWeights{};
  }
  FirstWeights first_weights(int worker) const {
    const int64_t t = static_cast<int64_t>(all_tasks) * worker / workers;
    return t < tasks ? weights_of(static_cast<int>(t)) : FirstWeights{};
  }
  // The first set of panels of a task.
  FirstWeights weights_of(int t) const {
    const Part* part;
    const ConvTask task = task_of(t, part);
    const Conv& c = part->c;
    const int64_t group = task.panel0 / c.panels_per_group(), panel = task.panel0 % c.panels_per_group(), words = (c.fold ? c.reduction() / 2 : c.reduction()) * kPanel;
    const int64_t panels = std::min<int64_t>(task.panel1 - task.panel0, kernels->preferred_panels);
    return {reinterpret_cast<const char*>(c.w + group * c.w_group + panel * words), panels * words * 4};
  }

  ConvTask task_of(int t, const Part*& part) const {
    part = parts;
    for (; t >= part->tasks; part++) t -= part->tasks;
    const Cut cut = part->cut;
    // panels innermost: the tasks of one worker share their pixels
    const int64_t split = t % cut.splits, block = t / cut.splits % cut.blocks, round = t / cut.splits / cut.blocks;
    ConvTask task;
    task.pixel0 = round * area + pixels / run * block / cut.blocks * run;
    task.pixel1 = round * area + pixels / run * (block + 1) / cut.blocks * run;
    // cut on multiples of a unit, so that no task is left with a narrow tile
    const int64_t panels = part->c.panels(), unit = unit_panels(part->c, *kernels), units = divide_up(panels, unit);
    task.panel0 = static_cast<int>(std::min(panels, units * split / cut.splits * unit));
    task.panel1 = static_cast<int>(std::min(panels, units * (split + 1) / cut.splits * unit));
    task.pool_slot = round * cut.blocks + block;
    return task;
  }
  template <class Visit>
  void pointers(const Visit& visit) {
    for (int i = 0; i < count; i++) {
      Conv& c = parts[i].c;
      visit(c.x), visit(c.x2), visit(c.w), visit(c.bias), visit(c.y), visit(c.residual), visit(c.gate), visit(c.pool), visit(c.pairs);
    }
    visit(scratch), visit(border.images);
  }
};

struct SqueezeTasks {
  SqueezeExcite s;
  int tasks;
  bool second;
  const Kernels* kernels;

  void operator()(int t, int) const {
    if (second) {
      const int units = static_cast<int>(divide_up(s.channels, 16));
      return kernels->se_fc2(s, units * t / tasks * 16, std::min(s.channels, units * (t + 1) / tasks * 16));
    }
    kernels->se_reduce_fc1(s, s.squeeze * t / tasks, s.squeeze * (t + 1) / tasks, s.pooled + (int64_t)t * s.images * s.channels);
  }
  template <class Visit>
  void pointers(const Visit& visit) {
    visit(s.sums), visit(s.w1), visit(s.b1), visit(s.w2t), visit(s.b2), visit(s.hidden), visit(s.gate), visit(s.pooled), visit(s.map);
  }
};

struct LoadTasks {
  TensorView x;
  int64_t first, parts, pad;
  const float* gate;
  Type type;
  char* out;
  const Kernels* kernels;

  void operator()(int t, int) const {
    const int64_t rows = x.h + 2 * pad, row_bytes = (x.w + 2 * pad) * x.c * type_bytes(type), n = t / parts, part = t % parts;
    load_rows(*kernels, x, first + n, rows * part / parts, rows * (part + 1) / parts, pad, gate ? gate + (first + n) * x.c : nullptr, type,
              out + n * rows * row_bytes);
  }
  template <class Visit>
  void pointers(const Visit& visit) { visit(x.data), visit(gate), visit(out); }
};

struct SumTasks {
  Type type;
  const char* x;
  int64_t pixels, channels;
  float* sums;
  char* means;
  const Kernels* kernels;

  void operator()(int n, int) const {
    kernels->sum_pixels(type, x + n * pixels * channels * type_bytes(type), pixels, channels, sums + n * channels);
    if (means)
      kernels->store_scaled(type, sums + n * channels, 1.0f / static_cast<float>(pixels), means + n * channels * type_bytes(type), channels);
  }
  template <class Visit>
  void pointers(const Visit& visit) { visit(x), visit(sums), visit(means); }
};

struct HalfTasks {
  const float* from;
  uint16_t* to;
  int64_t count, parts;

  void operator()(int t, int) const {
    const int64_t begin = count * t / parts, end = count * (t + 1) / parts;
    float_to_half(from + begin, to + begin, end - begin);
  }
  template <class Visit>
  void pointers(const Visit& visit) { visit(from), visit(to); }
};

}  // namespace

void Plan::bind(char* const* bases, int count) {
  for (int b = 0; b < count; b++) {
    if (bound_[b] == bases[b]) continue;
    bound_[b] = bases[b];
    for (const Slot& slot : slots_[b]) {
      char* const pointer = bases[b] + slot.offset;
      std::memcpy(slot.at, &pointer, sizeof pointer);
    }
  }
}

int64_t Plan::scratch_words(int64_t steps, const CutChoice& choice) const {
  const int64_t all = steps * kMaxTaskPixels, most = std::max(kMostInputWords, steps * 2 * k.pixel_tile);  // see cut_conv
  return (choice.block ? all : std::min(all, most)) + 4 * kMaxTaskPixels + 16;
}

bool Plan::repeats_pixels(const Conv& c, int64_t images, const CutChoice& choice) const {
  const int64_t area = (int64_t)c.out_h * c.out_w, pixels = images * area;
  const Cut cut = cut_conv(c, pixels, workers, k, choice);
  const int64_t weights = c.group_out / cut.splits * c.reduction(), most = divide_up(pixels, cut.blocks);
  return cut.splits >= 4 && (weights > most * c.steps || most > area);
}

int64_t Plan::pool_slots(const Conv& c, const CutChoice& choice, bool in_strip) const {
  return cut_conv(c, (int64_t)c.out_h * c.out_w, in_strip ? 1 : workers, k, choice).blocks;
}

template <int most>
CutMade Plan::add_conv_tasks(const Conv* convs, int count, int64_t images, const CutChoice& choice, const Border* border, int64_t repeated) {
  const Conv& first = convs[0];
  const int64_t area = (int64_t)first.out_h * first.out_w, rounds = first.pool ? images : 1, pixels = first.pool ? area : images * area;
  const int64_t run = run_pixels(first);
  ConvTasks<most> all{{}, count, 0, area, pixels, run, scratch_each_, &k, scratch_, border ? *border : Border{}, sharing(), 0, runs_.get(), nullptr};
  if (first.pairs) all.prepared.reset(new Prepared[static_cast<size_t>(workers)]);
  double macs = 0;
  for (int i = 0; i < std::min(count, most); i++) {
    const Conv& c = convs[i];
    auto& part = all.parts[i];
    part.c = c;
    part.cut = cut_conv(c, pixels, sharing(), k, choice);
    if (i) part.cut.blocks = all.parts[0].cut.blocks;  // whose sums have slots
    part.tasks = static_cast<int>(rounds * part.cut.blocks * part.cut.splits);
    all.tasks += part.tasks;
    macs += static_cast<double>(images * (area - repeated * c.out_w)) * c.groups * c.group_out * c.reduction() * (c.type == Type::f32 ? 1 : 2);
  }
  all.all_tasks = all.tasks + (border ? static_cast<int>(images) : 0);
  const Cut& cut = all.parts[0].cut;
  const CutMade made{divide_up(pixels, cut.blocks), cut.splits, pixels, divide_up(first.panels(), unit_panels(first, k))};
  const int64_t tasks = all.all_tasks;
  add(most > 1 ? Work::grouped : Work::dense, tasks, std::move(all), macs);
  return made;
}

CutMade Plan::add_conv(const Conv& c, int64_t images, const CutChoice& choice, const Border* border, int64_t repeated) {
  return add_conv_tasks<1>(&c, 1, images, choice, border, repeated);
}

CutMade Plan::add_convs(const Conv* convs, int count, int64_t images, const CutChoice& choice) {
  return add_conv_tasks<kMostRuns>(convs, count, images, choice, nullptr, 0);
}

constexpr int kMostStripPhases = 4;

// A task is a strip.
struct Plan::StripTasks {
  std::vector<Strip> strips;  // all of as many phases, of the same kinds
  int64_t each;
  struct alignas(64) Spent {
    double seconds[kMostStripPhases];
  };
  std::unique_ptr<Spent[]> spent{};  // of each worker, while it is measured
  int workers;

  void operator()(int t, int worker) const {
    const Strip& strip = strips[static_cast<size_t>(t)];
    const Border& b = strip.border;
    zero_border(b.images + worker * each, b.top, b.h, b.w, b.padded_h, b.padded_w, b.pixel_bytes);
    for (size_t p = 0; p < strip.phases.size(); p++) {
      const Phase& phase = strip.phases[p];
      const double begin = spent ? seconds_now() : 0;
      for (int i = 0; i < phase.tasks; i++) phase.body->run(i, worker);
      if (spent) spent[worker].seconds[p] += seconds_now() - begin;
    }
  }
  FirstWeights first_weights(int) const { return strips[0].phases[0].body->first_weights(0); }
  // In a strip each phase fetches what the next one reads first; a worker's last strip, what comes behind the strips.
  void set_next(const TaskBody* next) {
    for (int64_t worker = 0, count = static_cast<int64_t>(strips.size()); worker < workers; worker++)
      if (const int64_t last = count * (worker + 1) / workers - 1; last >= 0) strips[static_cast<size_t>(last)].phases.back().body->set_next(next);
  }
  std::vector<PhasePart> take_parts() {
    std::vector<PhasePart> parts;
    for (size_t p = 0; p < strips[0].phases.size(); p++) {
      PhasePart& part = parts.emplace_back(PhasePart{strips[0].phases[p].work, 0, 0});
      for (const Strip& strip : strips) part.macs += strip.phases[p].macs;
      for (int w = 0; spent && w < workers; w++) part.seconds += spent[w].seconds[p];
    }
    spent.reset(new Spent[static_cast<size_t>(workers)]{});
    return parts;
  }
  template <class Visit>
  void pointers(const Visit& visit) {
    for (Strip& strip : strips) visit(strip.border.images);
  }
};

void Plan::begin_strip(const Border& border, int64_t each_bytes) {
  strips_.push_back({border, {}});
  strip_bytes_ = each_bytes;
}

void Plan::end_strips() {
  StripTasks all{std::exchange(strips_, {}), strip_bytes_, nullptr, workers};
  for (const Strip& strip : all.strips)
    for (size_t p = 1; p < strip.phases.size(); p++) strip.phases[p - 1].body->set_next(strip.phases[p].body.get());
  double macs = 0;
  for (const Strip& strip : all.strips)
    for (const Phase& phase : strip.phases) macs += phase.macs;
  const int64_t tasks = static_cast<int64_t>(all.strips.size());
  add(Work::strips, tasks, std::move(all), macs);
}

void Plan::add_squeeze_excite(const SqueezeExcite& s) {
  const int64_t work = (int64_t)s.images * s.channels * (s.squeeze + s.slots);
  const int tasks = static_cast<int>(std::clamp<int64_t>(work / 8192, 1, std::min<int64_t>(workers, s.squeeze)));
  add(Work::squeeze, tasks, SqueezeTasks{s, tasks, false, &k});
  const int64_t scaling = s.map ? s.images * s.pixels * s.channels : 0;
  const int parts = static_cast<int>(std::clamp<int64_t>(std::max(work / 8192, scaling / 16384), 1, std::min<int64_t>(workers, divide_up(s.channels, 16))));
  add(Work::squeeze, parts, SqueezeTasks{s, parts, true, &k});
}

void Plan::add_load(const TensorView& x, int64_t first, int64_t images, int64_t pad, const float* gate, Type type, void* out) {
  const int64_t rows = x.h + 2 * pad, row_bytes = (x.w + 2 * pad) * x.c * type_bytes(type);
  const int64_t parts = std::clamp<int64_t>(rows * row_bytes / 65536, 1, std::min<int64_t>(rows, 2 * workers));
  add(Work::load, images * parts, LoadTasks{x, first, parts, pad, gate, type, static_cast<char*>(out), &k});
}

void Plan::add_sum_pixels(Type type, const void* x, int64_t images, int64_t pixels, int64_t channels, float* sums, void* means) {
  add(Work::pool, images, SumTasks{type, static_cast<const char*>(x), pixels, channels, sums, static_cast<char*>(means), &k});
}

void Plan::add_to_half(const float* from, uint16_t* to, int64_t count) {
  const int64_t parts = std::clamp<int64_t>(count / 16384, 1, 4 * workers);
  add(Work::store, parts, HalfTasks{from, to, count, parts});
}

const int64_t* Plan::keep(std::vector<int64_t> taps) {
  kept_.push_back(std::make_unique<std::vector<int64_t>>(std::move(taps)));
  return kept_.back()->data();
}

void set_window(Conv& c, Plan& plan, Type type, const void* x, int64_t padded_h, int64_t padded_w, int64_t channels, int64_t groups,
                int64_t kernel_h, int64_t kernel_w, int64_t stride) {
  const int64_t words = type == Type::f32 ? channels : channels / 2;  // a pixel
  c.type = type;
  c.x = static_cast<const uint32_t*>(x);
  c.x_pixel = words * stride;
  c.x_row = words * padded_w * stride;
  c.x_image = words * padded_w * padded_h;
  std::vector<int64_t> taps;
  if (groups == 1) {
    for (int64_t i = 0; i < kernel_h; i++) taps.push_back(i * padded_w * words);
    c.steps = static_cast<int>(kernel_w * words);
  } else {
    for (int64_t i = 0; i < kernel_h; i++)
      for (int64_t j = 0; j < kernel_w; j++) taps.push_back((i * padded_w + j) * words);
    c.steps = static_cast<int>(words / groups);
  }
  c.words = 1;
  c.taps = static_cast<int>(taps.size());
  c.tap_offset = plan.keep(std::move(taps));
}

}  // namespace regnet_kernels::cpu
