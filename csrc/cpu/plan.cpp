#include "plan.h"

#include <algorithm>

namespace regnet_kernels::cpu {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What a task's input should fit into, in words, beside the weights that stream past it: half of a small L2, and its pixels. Processors
// with AVX-512 have 1 MiB of L2 and more; there a dense convolution takes twice as much, so that its weights pass half as often.
struct TaskInput {
  int64_t words, pixels;
};
TaskInput task_input(const Conv& c, const Kernels& k) {
  return k.vector_floats == 16 && c.groups == 1 && c.words == 1 ? TaskInput{96 * 1024, kMaxTaskPixels} : TaskInput{48 * 1024, 192};
}
// Multiply-adds below which a task is not worth its counter and its prologue (about 2 microseconds of one core).
constexpr int64_t kTaskMacs = 150'000;
constexpr int64_t kTasksPerWorker = 4;  // so that a core slowed by its neighbours costs a quarter of a phase, not half
constexpr int64_t kMinBlockPixels = 48; // each block streams all weights once: keep at least this many pixels against them

// How a convolution is cut into tasks: `blocks` runs of pixels (per image where sums are pooled) x `splits` runs of panels.
struct Cut {
  int64_t blocks, splits;
};

// Groups share neither weights nor inputs, so a grouped convolution is cut along them first; a dense one along the pixels,
// since each run of pixels streams all weights, and only then along the panels.
Cut cut_conv(const Conv& c, int64_t pixels, int workers, const Kernels& k) {
  const int64_t pixel_words = c.steps * c.words * (c.taps > 1 ? 3 : 1) + c.steps2;  // fresh words that an output pixel brings into the cache
  const int64_t panels = c.panels();
  const int64_t macs = pixels * c.groups * c.group_out * c.reduction() * (c.type == Type::f32 ? 1 : 2);
  const int64_t want = workers == 1 ? 1 : std::clamp<int64_t>(macs / kTaskMacs, 1, kTasksPerWorker * workers);
  const TaskInput most = task_input(c, k);
  int64_t block = std::clamp<int64_t>(most.words / pixel_words, 2 * k.pixel_tile, most.pixels);
  int64_t blocks = divide_up(pixels, block), splits = 1;
  const int64_t units = divide_up(panels, k.preferred_panels);
  if (c.groups > 1 || c.words > 1) {
    splits = std::min(divide_up(want, blocks), units);
  } else if (blocks < want) {
    blocks = std::min(want, std::max<int64_t>(blocks, pixels / kMinBlockPixels));  // smaller while they stay tall enough
    splits = std::min(divide_up(want, blocks), units);
  }
  // a whole number of tasks a worker, so that none is left alone with the last one
  if (workers > 1 && splits == 1 && blocks > 1 && blocks < 4 * kTasksPerWorker * workers)
    blocks = std::min(pixels, divide_up(blocks, workers) * workers);
  return {blocks, splits};
}

// The same for Winograd; `rounds` runs of images, each cut into `blocks` runs of tiles.
struct WinogradCut {
  int64_t rounds, blocks, splits;
};

int64_t winograd_blocks(const Winograd& w, int64_t tiles) { return divide_up(tiles, 4 * winograd_block(w.lanes())); }

WinogradCut cut_winograd(const Winograd& w, int64_t images, int workers) {
  const int64_t area = (int64_t)w.tiles_h * w.tiles_w;
  WinogradCut cut{1, winograd_blocks(w, images * area), 1};
  if (w.pool) {  // each image's sums apart: several whole images a task, or parts of one
    cut.blocks = winograd_blocks(w, area);
    cut.rounds = cut.blocks > 1 ? images : divide_up(images, std::max<int64_t>(1, 4 * winograd_block(w.lanes()) / area));
  }
  const int64_t macs = images * area * 36 * w.groups * w.group_width * w.lanes();
  const int64_t want = workers == 1 ? 1 : std::clamp<int64_t>(macs / kTaskMacs, 1, kTasksPerWorker * workers);
  cut.splits = std::min<int64_t>(divide_up(want, cut.rounds * cut.blocks), w.groups);
  return cut;
}

}  // namespace

int64_t Plan::pool_slots(const Conv& c) const {
  return cut_conv(c, (int64_t)c.out_h * c.out_w, workers, k).blocks;
}

void Plan::add_convs(const Conv* convs, int count, int64_t images, int extra, std::function<void(int)> extra_run) {
  struct Part {
    Conv c;
    Cut cut;
    int tasks;
  };
  struct Parts {
    Part part[kMostRuns];
  } parts{};
  int tasks = 0;
  double macs = 0;
  const int64_t area = (int64_t)convs[0].out_h * convs[0].out_w, rounds = convs[0].pool ? images : 1;
  const int64_t pixels = convs[0].pool ? area : images * area;
  for (int i = 0; i < count; i++) {
    const Conv& c = convs[i];
    Part& part = parts.part[i];
    part.c = c;
    part.cut = cut_conv(c, pixels, workers, k);
    if (i) part.cut.blocks = parts.part[0].cut.blocks;  // whose sums have slots
    part.tasks = static_cast<int>(rounds * part.cut.blocks * part.cut.splits);
    tasks += part.tasks;
    macs += static_cast<double>(images * area) * c.groups * c.group_out * c.reduction() * (c.type == Type::f32 ? 1 : 2);
  }
  const Kernels* kernels = &k;
  uint32_t* const scratch = scratch_;
  const int64_t each = scratch_each_;
  const Work work = convs[0].taps > 1 && (convs[0].groups > 1 || convs[0].words > 1) ? Work::grouped : Work::dense;
  add(work, tasks + extra, [=, extra_run = std::move(extra_run)](int t, int worker) {
    if (t >= tasks) return extra_run(t - tasks);
    const Part* part = parts.part;
    for (; t >= part->tasks; part++) t -= part->tasks;
    const Cut cut = part->cut;
    // panels innermost: the tasks of one worker share their pixels
    const int64_t split = t % cut.splits, block = t / cut.splits % cut.blocks, round = t / cut.splits / cut.blocks;
    ConvTask task;
    task.pixel0 = round * area + pixels * block / cut.blocks;
    task.pixel1 = round * area + pixels * (block + 1) / cut.blocks;
    // cut the panels on multiples of the widest tile, so that no task is left with a narrow one
    const int64_t panels = part->c.panels(), unit = kernels->preferred_panels, units = divide_up(panels, unit);
    task.panel0 = static_cast<int>(std::min(panels, units * split / cut.splits * unit));
    task.panel1 = static_cast<int>(std::min(panels, units * (split + 1) / cut.splits * unit));
    task.pool_slot = round * cut.blocks + block;
    kernels->conv(part->c, task, scratch + worker * each);
  }, macs);
}

void Plan::add_conv(const Conv& c, int64_t images, int extra, std::function<void(int)> extra_run) {
  add_convs(&c, 1, images, extra, std::move(extra_run));
}

int64_t Plan::pool_slots(const Winograd& w) const { return winograd_blocks(w, (int64_t)w.tiles_h * w.tiles_w); }

void Plan::add_winograds(const Winograd* runs, int count, int64_t images) {
  struct Part {
    Winograd w;
    int64_t splits;
    int tasks;
  };
  struct Parts {
    Part part[kMostRuns];
  } parts{};
  int tasks = 0;
  double macs = 0;
  const int64_t area = (int64_t)runs[0].tiles_h * runs[0].tiles_w;
  const WinogradCut cut = cut_winograd(runs[0], images, workers);
  for (int i = 0; i < count; i++) {
    const Winograd& w = runs[i];
    const int64_t splits = i ? 1 : cut.splits;  // the others are left-over groups
    parts.part[i] = {w, splits, static_cast<int>(cut.rounds * cut.blocks * splits)};
    tasks += parts.part[i].tasks;
    macs += 9.0 * static_cast<double>(images * w.out_h * w.out_w * w.groups) * w.group_width * w.lanes();
  }
  const Kernels* kernels = &k;
  uint32_t* const scratch = scratch_;
  const int64_t each = scratch_each_;
  add(Work::winograd, tasks, [=](int t, int worker) {
    const Part* part = parts.part;
    for (; t >= part->tasks; part++) t -= part->tasks;
    const int64_t block = t % cut.blocks, round = t / cut.blocks % cut.rounds, split = t / cut.blocks / cut.rounds;
    const int64_t first = images * round / cut.rounds, tiles = (images * (round + 1) / cut.rounds - first) * area;
    WinogradTask task;
    task.tile0 = first * area + tiles * block / cut.blocks;
    task.tile1 = first * area + tiles * (block + 1) / cut.blocks;
    task.group0 = static_cast<int>(part->w.groups * split / part->splits);
    task.group1 = static_cast<int>(part->w.groups * (split + 1) / part->splits);
    task.pool_slot = first * cut.blocks + block;
    kernels->winograd(part->w, task, reinterpret_cast<float*>(scratch + worker * each));
  }, macs);
}

void Plan::add_squeeze_excite(const SqueezeExcite& s) {
  const Kernels* kernels = &k;
  const int64_t work = (int64_t)s.images * s.channels * (s.squeeze + s.slots);
  const int tasks = static_cast<int>(std::clamp<int64_t>(work / 8192, 1, std::min<int64_t>(workers, s.squeeze)));
  const int64_t each = (int64_t)s.images * s.channels;
  add(Work::squeeze, tasks, [=](int t, int) {
    kernels->se_reduce_fc1(s, s.squeeze * t / tasks, s.squeeze * (t + 1) / tasks, s.pooled + t * each);
  });
  const int units = static_cast<int>(divide_up(s.channels, 16));
  const int parts = std::min(tasks, units);
  add(Work::squeeze, parts, [=](int t, int) {
    kernels->se_fc2(s, units * t / parts * 16, std::min(s.channels, units * (t + 1) / parts * 16));
  });
}

void Plan::add_load(const TensorView& x, int64_t first, int64_t images, int64_t pad, const float* gate, Type type, void* out) {
  const int64_t rows = x.h + 2 * pad, row_bytes = (x.w + 2 * pad) * x.c * type_bytes(type);
  const int64_t parts = std::clamp<int64_t>(rows * row_bytes / 65536, 1, std::min<int64_t>(rows, 2 * workers));
  add(Work::load, images * parts, [=](int t, int) {
    const int64_t n = t / parts, part = t % parts;
    load_rows(x, first + n, rows * part / parts, rows * (part + 1) / parts, pad, gate ? gate + (first + n) * x.c : nullptr, type,
              static_cast<char*>(out) + n * rows * row_bytes);
  });
}

void Plan::add_sum_pixels(Type type, const void* x, int64_t images, int64_t pixels, int64_t channels, float* sums, void* means) {
  const Kernels* kernels = &k;
  add(Work::pool, images, [=](int n, int) {
    kernels->sum_pixels(type, static_cast<const char*>(x) + n * pixels * channels * type_bytes(type), pixels, channels, sums + n * channels);
    if (means)
      kernels->store_scaled(type, sums + n * channels, 1.0f / static_cast<float>(pixels),
                            static_cast<char*>(means) + n * channels * type_bytes(type), channels);
  });
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
