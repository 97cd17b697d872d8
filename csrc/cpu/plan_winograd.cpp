// Winograd convolutions as phases of tasks.
#include <algorithm>
#include <vector>

#include "plan.h"
#include "tasks.h"

namespace regnet_kernels::cpu {
namespace {

constexpr int64_t kMinTaskTiles = 8;  // of a task: with fewer, transforming the weights takes a third of the time

// How a Winograd convolution is cut into tasks. A unit is a group on the tiles of one of `rounds` runs of images, whose weights are
// transformed once. Workers take whole units, those that are left over (`apart` of the first run's) in `blocks` runs of tiles, so that the
// workers end together. Where sums are wanted, each of the blocks has a slot. `splits`: where the cut was chosen, runs of groups, each in
// blocks; else 0. `by_tiles`: all units are apart, and each worker takes one of the blocks of all groups.
struct WinogradCut {
  int64_t rounds, blocks, apart, splits;
  bool by_tiles = false;
};
constexpr int64_t kTilesOfOwn = 96;  // of a part of a unit: with fewer, transforming the weights again shows
// In pixels of the output, of a channel of those that go together and of one of a group: from so many on each worker takes its own run of tiles, whose
// rows it wrote as the 1x1 before and reads as the 1x1 behind, although all of them transform all weights then. (1.00 to 1.01 times as fast where two
// cores share an L3, 1.01 to 1.06 where they do not; from 6 on 0.99 and 1.02; a group of 48 at 28x28, 16 pixels, 0.99.)
constexpr int64_t kPixelsOfLane = 16, kPixelsOfWidth = 24;

// Of a stride: tiles that are transformed together, and products of a tile.
int64_t block_of(const Winograd& w) {
  return w.stride == 2 ? kStridedBlock : winograd_block(w.lanes(), w.group_width);
}
int64_t products_of(const Winograd& w) { return w.stride == 2 ? 25 : 36; }

WinogradCut cut_winograd(const Winograd* runs, int count, int64_t images, int workers, const CutChoice& choice) {
  const Winograd& w = runs[0];
  const int64_t area = (int64_t)w.tiles_h * w.tiles_w, most = choice.block ? choice.block : 4 * block_of(w);
  WinogradCut cut{1, 1, 0, 0};
  if (w.pool) cut.rounds = divide_up(images, std::max<int64_t>(1, most / area));  // each image's sums apart
  if (choice.block) {
    cut.blocks = w.pool ? divide_up(area, most) : divide_up(images * area, most);
    if (cut.blocks > 1 && w.pool) cut.rounds = images;
    cut.splits = std::clamp<int64_t>(choice.splits, 1, w.groups);
    return cut;
  }
  const int64_t macs = images * area * products_of(w) * w.groups * w.group_width * w.lanes();
  const int64_t want = workers == 1 ? 1 : std::clamp<int64_t>(macs / kTaskMacs, 1, kTasksPerWorker * workers);
  if (w.pool && cut.rounds * w.groups < want) cut.rounds = std::min(images, divide_up(want, w.groups));
  if (workers == 1 || (w.pool && cut.rounds < images)) return cut;
  const int64_t pixels = (w.pool ? 1 : images) * w.out_h * w.out_w;
  if (cut.rounds == 1 && pixels >= std::max(kPixelsOfLane * w.lanes(), kPixelsOfWidth * w.group_width) && (w.pool ? area : images * area) >= workers * kMinTaskTiles) {
    cut.blocks = workers, cut.apart = w.groups, cut.by_tiles = true;
    return cut;
  }
  int64_t left = 0;  // groups that are not interleaved with as many others: further, smaller units
  for (int i = 1; i < count; i++) left += runs[i].groups;
  const int64_t units = cut.rounds * w.groups, tiles = w.pool ? area : images * area;
  cut.blocks = std::clamp<int64_t>(divide_up(want, units), 1, std::max<int64_t>(1, tiles / kTilesOfOwn));
  cut.apart = units;
  if ((units * cut.blocks % workers == 0 && cut.rounds * left * cut.blocks % workers == 0) || macs < workers * kTaskMacs) return cut;
  cut.blocks = std::min<int64_t>(divide_up(cut.blocks, workers) * workers, std::max<int64_t>(1, tiles / kMinTaskTiles));
  if (cut.blocks <= workers) cut.apart = units % workers;
  return cut;
}

// The same for Winograd in bfloat16: `splits` runs of groups x `rounds` runs of images x `blocks` runs of tiles of each.
struct WinogradBf16Cut {
  int64_t rounds, blocks, splits;
};
constexpr int64_t kMinBf16Tiles = 24;  // of a task: with fewer the weights come too often

WinogradBf16Cut cut_winograd_bf16(const WinogradBf16& w, int64_t images, int workers, const CutChoice& choice) {
  const int64_t area = (int64_t)w.tiles_h * w.tiles_w, block = choice.block ? choice.block : 4 * winograd_bf16_block(w.lanes());
  WinogradBf16Cut cut{1, divide_up(images * area, block), 1};
  if (w.pool) {  // each image's sums apart: several whole images a task, or parts of one
    cut.blocks = divide_up(area, block);
    cut.rounds = cut.blocks > 1 ? images : divide_up(images, std::max<int64_t>(1, block / area));
  }
  if (choice.block) {
    cut.splits = std::clamp<int64_t>(choice.splits, 1, w.groups);
    return cut;
  }
  const int64_t macs = images * area * 16 * w.groups * w.group_width * w.lanes();
  const int64_t want = workers == 1 ? 1 : std::clamp<int64_t>(macs / kTaskMacs, 1, kTasksPerWorker * workers);
  cut.splits = std::min<int64_t>(divide_up(want, cut.rounds * cut.blocks), w.groups);
  // the tiles of a group apart where there are few groups: the worker that has just read its weights takes the next tiles, too
  if (cut.rounds * cut.blocks * cut.splits < want) {
    if (w.pool && cut.blocks == 1) cut.rounds = std::min(images, divide_up(want, cut.splits));  // fewer whole images first
    if (!w.pool || cut.rounds == images) {
      const int64_t most = std::max<int64_t>(1, (w.pool ? area : images * area) / kMinBf16Tiles);
      cut.blocks = std::max(cut.blocks, std::min(most, divide_up(want, cut.rounds * cut.splits)));
    }
  }
  return cut;
}

constexpr int64_t kMostFirstBytes = 192 * 1024;  // of a wide group

struct WinogradTasks {
  struct Item {
    int run;
    int64_t round, block, blocks;  // blocks from `block` on
    int group0, group1;
  };
  Winograd runs[kMostRuns];
  int count;
  WinogradCut cut;
  int64_t area, images, each;
  const Kernels* kernels;
  uint32_t* scratch;
  std::vector<Item> items;
  int workers;
  const TaskBody* next = nullptr;

  void operator()(int t, int worker) const {
    const Item& item = items[static_cast<size_t>(t)];
    const int64_t first = images * item.round / cut.rounds, tiles = (images * (item.round + 1) / cut.rounds - first) * area;
    WinogradTask task{};
    task.tile0 = first * area + tiles * item.block / cut.blocks;
    task.tile1 = first * area + tiles * (item.block + item.blocks) / cut.blocks;
    task.parts = item.blocks;
    task.group0 = item.group0, task.group1 = item.group1;
    task.pool_slot = first * cut.blocks + item.block;
    const int64_t bytes = runs[0].next_bytes, size = static_cast<int64_t>(items.size());
    for (int i = 0; i < 2; i++) task.next[i] = runs[0].next[i] + bytes * t / size;
    task.next_bytes = bytes * (t + 1) / size - bytes * t / size;
    const int part = static_cast<int>(((t + 1) * static_cast<int64_t>(workers) - 1) / size);  // the worker whose task it is
    if (next && t + 1 == size * (part + 1) / workers) {
      const FirstWeights then = next->first_weights(part);
      task.then = then.at, task.then_bytes = then.bytes;
    }
    const Winograd& w = runs[item.run];
    float* const own_scratch = reinterpret_cast<float*>(scratch + worker * each);
    if (w.x_each == 0) return kernels->winograd(w, task, own_scratch);
    Winograd own = w;
    own.x += worker * w.x_each / 4;
    kernels->winograd(own, task, own_scratch);
  }
  FirstWeights first_weights(int worker) const {
    const Item& item = items[items.size() * static_cast<size_t>(worker) / static_cast<size_t>(workers)];
    const Winograd& w = runs[item.run];
    return {reinterpret_cast<const char*>(w.w + item.group0 * w.w_group), std::min<int64_t>(w.w_group * 4, kMostFirstBytes)};
  }
  template <class Visit>
  void pointers(const Visit& visit) {
    for (int i = 0; i < count; i++) {
      Winograd& w = runs[i];
      visit(w.x), visit(w.w), visit(w.bias), visit(w.y), visit(w.pool), visit(w.next[0]), visit(w.next[1]);
    }
    visit(scratch);
  }
};

// In the order in which workers take them: of each worker its whole units, then its share of the blocks.
std::vector<WinogradTasks::Item> winograd_items(const Winograd* runs, int count, const WinogradCut& cut, int workers) {
  std::vector<WinogradTasks::Item> whole, parts, all;
  for (int i = 0; i < count; i++) {
    const int groups = runs[i].groups;
    if (cut.by_tiles) continue;
    if (cut.splits) {
      const int64_t splits = i ? 1 : cut.splits;
      for (int64_t split = 0; split < splits; split++)
        for (int64_t round = 0; round < cut.rounds; round++)
          for (int64_t block = 0; block < cut.blocks; block++)
            parts.push_back({i, round, block, 1, static_cast<int>(groups * split / splits), static_cast<int>(groups * (split + 1) / splits)});
      continue;
    }
    const int64_t left = i == 0 ? cut.rounds * groups - cut.apart : 0;
    for (int64_t unit = 0; unit < cut.rounds * groups; unit++) {
      const int64_t round = unit / groups;
      const int group = static_cast<int>(unit % groups);
      if (unit < left) whole.push_back({i, round, 0, cut.blocks, group, group + 1});
      else
        for (int64_t block = 0; block < cut.blocks; block++) parts.push_back({i, round, block, 1, group, group + 1});
    }
  }
  for (int64_t block = 0; cut.by_tiles && block < cut.blocks; block++)
    for (int i = 0; i < count; i++)
      for (int group = 0; group < runs[i].groups; group++) parts.push_back({i, 0, block, 1, group, group + 1});
  const auto share = [&](const std::vector<WinogradTasks::Item>& from, int64_t worker) {
    const int64_t size = static_cast<int64_t>(from.size());
    all.insert(all.end(), from.begin() + size * worker / workers, from.begin() + size * (worker + 1) / workers);
  };
  for (int64_t worker = 0; worker < workers; worker++) share(whole, worker), share(parts, worker);
  return all;
}

struct WinogradBf16Tasks {
  struct Part {
    WinogradBf16 w;
    int64_t splits;
    int tasks;
  };
  Part parts[kMostRuns];
  int count;
  WinogradBf16Cut cut;
  int64_t area, images, each;
  const Kernels* kernels;
  uint32_t* scratch;

  void operator()(int t, int worker) const {
    const Part* part = parts;
    for (; t >= part->tasks; part++) t -= part->tasks;
    const int64_t block = t % cut.blocks, round = t / cut.blocks % cut.rounds, split = t / cut.blocks / cut.rounds;
    const int64_t first = images * round / cut.rounds, tiles = (images * (round + 1) / cut.rounds - first) * area;
    WinogradBf16Task task;
    task.tile0 = first * area + tiles * block / cut.blocks;
    task.tile1 = first * area + tiles * (block + 1) / cut.blocks;
    task.group0 = static_cast<int>(part->w.groups * split / part->splits);
    task.group1 = static_cast<int>(part->w.groups * (split + 1) / part->splits);
    task.pool_slot = first * cut.blocks + block;
    kernels->winograd_bf16(part->w, task, reinterpret_cast<float*>(scratch + worker * each));
  }
  template <class Visit>
  void pointers(const Visit& visit) {
    for (int i = 0; i < count; i++) {
      WinogradBf16& w = parts[i].w;
      visit(w.x), visit(w.u), visit(w.bias), visit(w.y), visit(w.pool);
    }
    visit(scratch);
  }
};

}  // namespace

int64_t Plan::pool_slots(const Winograd* runs, int count, int64_t images, const CutChoice& choice, bool in_strip) const {
  return cut_winograd(runs, count, images, in_strip ? 1 : workers, choice).blocks;
}

CutMade Plan::add_winograds(const Winograd* runs, int count, int64_t images, const CutChoice& choice) {
  const int64_t area = (int64_t)runs[0].tiles_h * runs[0].tiles_w;
  const WinogradCut cut = cut_winograd(runs, count, images, sharing(), choice);
  WinogradTasks all{{}, count, cut, area, images, scratch_each_, &k, scratch_, winograd_items(runs, count, cut, sharing()), sharing()};
  double macs = 0;
  for (int i = 0; i < count; i++) {
    const Winograd& w = all.runs[i] = runs[i];
    macs += 9.0 * static_cast<double>(images * w.out_h * w.out_w * w.groups) * w.group_width * w.lanes();
  }
  const int64_t tasks = static_cast<int64_t>(all.items.size());
  add(Work::winograd, tasks, std::move(all), macs);
  return {divide_up(images * area, cut.rounds * cut.blocks), cut.splits ? cut.splits : runs[0].groups, images * area, runs[0].groups};
}

int64_t Plan::pool_slots(const WinogradBf16& w, int64_t images, const CutChoice& choice) const {
  return cut_winograd_bf16(w, images, workers, choice).blocks;
}

CutMade Plan::add_winograds(const WinogradBf16* runs, int count, int64_t images, const CutChoice& choice) {
  const int64_t area = (int64_t)runs[0].tiles_h * runs[0].tiles_w;
  const WinogradBf16Cut cut = cut_winograd_bf16(runs[0], images, workers, choice);
  WinogradBf16Tasks all{{}, count, cut, area, images, scratch_each_, &k, scratch_};
  int64_t tasks = 0;
  double macs = 0;
  for (int i = 0; i < count; i++) {
    const WinogradBf16& w = runs[i];
    const int64_t splits = i ? 1 : cut.splits;  // the others are left-over groups
    all.parts[i] = {w, splits, static_cast<int>(cut.rounds * cut.blocks * splits)};
    tasks += all.parts[i].tasks;
    macs += 9.0 * static_cast<double>(images * w.out_h * w.out_w * w.groups) * w.group_width * w.lanes();
  }
  add(Work::winograd, tasks, all, macs);
  return {divide_up(images * area, cut.rounds * cut.blocks), cut.splits, images * area, runs[0].groups};
}

}  // namespace regnet_kernels::cpu
