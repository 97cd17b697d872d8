// Turns convolutions, squeezes and conversions into phases of tasks for the executor.
#pragma once
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "arena.h"
#include "choices.h"
#include "executor.h"
#include "kernels.h"
#include "tensor_view.h"

namespace regnet_kernels::cpu {

// A place from which pointers of a plan count that is kept for later calls: the phases are added with addresses `relative_to` it, and
// `bind` tells before each call where the places are this time.
using Base = int;
inline constexpr int kMaxBases = 32;
inline constexpr int kBaseShift = 56;  // no address of a process is that large
inline char* relative_to(Base base) { return reinterpret_cast<char*>(static_cast<uintptr_t>(base + 1) << kBaseShift); }

struct Border {  // of NHWC images whose interior, h x w, begins at pixel (top, 1)
  char* images;
  int64_t top, h, w, padded_h, padded_w, pixel_bytes;
};

class Plan {
 public:
  Plan(const Kernels& kernels, int workers) : k(kernels), workers(workers) {}

  // Words of scratch that each worker needs for convolutions with a gate or with pairs, of `steps` in all, cut by the heuristics or as `choice` says;
  // call before `add_conv` with the most.
  int64_t scratch_words(int64_t steps, const CutChoice& choice = {}) const;
  void set_scratch(uint32_t* base, int64_t words_each) { scratch_ = base, scratch_each_ = words_each; }

  // Adds a phase that computes `images` images of c. Where c.pool is set, it must hold images * pool_slots(...) * channels.
  // With a border, zeroing those of `images` images joins the phase as further tasks. repeated: rows that another phase computes as well, which
  // do not count as work.
  CutMade add_conv(const Conv& c, int64_t images, const CutChoice& choice = {}, const Border* border = nullptr, int64_t repeated = 0);
  int64_t pool_slots(const Conv& c, const CutChoice& choice = {}, bool in_strip = false) const;
  // Would many tasks of a gated c scale the same pixels? (Two: as dear as scaling them apart.)
  bool repeats_pixels(const Conv& c, int64_t images, const CutChoice& choice = {}) const;
  // One phase of several convolutions of the same pixels, at most kMostRuns: a block's 3x3. Where sums are wanted, they have the slots of the first.
  CutMade add_convs(const Conv* convs, int count, int64_t images, const CutChoice& choice = {});

  // The same for Winograd convolutions; scratch: winograd_scratch_words(lanes) words for each worker.
  CutMade add_winograds(const Winograd* runs, int count, int64_t images, const CutChoice& choice = {});
  int64_t pool_slots(const Winograd* runs, int count, int64_t images, const CutChoice& choice = {}, bool in_strip = false) const;
  CutMade add_winograds(const WinogradBf16* runs, int count, int64_t images, const CutChoice& choice = {});
  int64_t pool_slots(const WinogradBf16& w, int64_t images, const CutChoice& choice = {}) const;

  // hidden and gate of `images` images, and the map times the gate where it is given: two phases. `pooled` holds workers * images * channels.
  void add_squeeze_excite(const SqueezeExcite& s);

  // Phases of one worker each: what is added between two calls of begin_strip, or the last one and end_strips, becomes one task, in which a
  // worker zeroes a border and then does one phase after the other, without waiting for the others. All strips together are one phase.
  // The border's image is worker 0's; those of the others follow at each_bytes. So do the x and y of convolutions that have x_each or y_each.
  void begin_strip(const Border& border, int64_t each_bytes);
  void end_strips();

  // Fills a padded NHWC copy of images [first, first + images) of x.
  void add_load(const TensorView& x, int64_t first, int64_t images, int64_t pad, const float* gate, Type type, void* out);

  // Sums over the pixels of each image, and their scaled, rounded means if `means` is not null.
  void add_sum_pixels(Type type, const void* x, int64_t images, int64_t pixels, int64_t channels, float* sums, void* means);

  void add_to_half(const float* from, uint16_t* to, int64_t count);

  // Adds a phase of run(task, worker). Where it has a member `pointers(visit)`, those that are relative to a base can be bound.
  template <class Run>
  void add(Work work, int64_t tasks, Run run, double macs = 0) {
    struct Body : TaskBody {
      explicit Body(Run r) : it(std::move(r)) {}
      void run(int task, int worker) const override { it(task, worker); }
      FirstWeights first_weights(int worker) const override {
        if constexpr (requires { it.first_weights(worker); }) return it.first_weights(worker);
        return {};
      }
      void set_next(const TaskBody* next) override {
        if constexpr (requires { it.set_next(next); }) it.set_next(next);
        else if constexpr (requires { it.next = next; }) it.next = next;
      }
      std::vector<PhasePart> take_parts() override {
        if constexpr (requires { it.take_parts(); }) return it.take_parts();
        return {};
      }
      Run it;
    };
    auto body = std::make_unique<Body>(std::move(run));
    const auto note = [this](auto& pointer) { note_pointer(&pointer, reinterpret_cast<uintptr_t>(pointer)); };
    if constexpr (requires { body->it.pointers(note); }) body->it.pointers(note);
    if (!strips_.empty()) return strips_.back().phases.push_back({static_cast<int>(tasks), std::move(body), work, step_, macs});
    if constexpr (requires { body->it.first_weights(0); }) {  // to the last phase of convolutions
      auto last = phases_.rbegin();
      while (last != phases_.rend() && last->work != Work::dense && last->work != Work::grouped && last->work != Work::winograd && last->work != Work::strips) ++last;
      if (last != phases_.rend()) last->body->set_next(body.get());
    }
    phases_.push_back({static_cast<int>(tasks), std::move(body), work, step_, macs});
  }
  void set_step(int step) { step_ = step; }  // of the phases that are added from here on
  void run(const Fork& fork, double* seconds = nullptr) {
    ++*runs_;
    run_phases(phases_, workers, fork, seconds);
  }
  const std::vector<Phase>& phases() const { return phases_; }

  // Sets all pointers that were added relative to a base; bases[b] is where base b is now. Not while the plan runs.
  void bind(char* const* bases, int count);

  // Tap offsets that outlive the plan's phases.
  const int64_t* keep(std::vector<int64_t> taps);

  const Kernels& k;
  const int workers;

 private:
  struct Strip {
    Border border;
    std::vector<Phase> phases;
  };
  struct StripTasks;
  int sharing() const { return strips_.empty() ? workers : 1; }  // workers that share a phase
  template <int most>
  CutMade add_conv_tasks(const Conv* convs, int count, int64_t images, const CutChoice& choice, const Border* border, int64_t repeated);
  void note_pointer(void* at, uintptr_t address) {
    if (const uintptr_t base = address >> kBaseShift) slots_[base - 1].push_back({at, static_cast<int64_t>(address - (base << kBaseShift))});
  }

  struct Slot {
    void* at;  // a pointer in a phase
    int64_t offset;
  };
  std::vector<Phase> phases_;
  const std::unique_ptr<uint64_t> runs_ = std::make_unique<uint64_t>(0);  // so far
  std::vector<Strip> strips_;  // that were begun
  int64_t strip_bytes_ = 0;
  std::vector<Slot> slots_[kMaxBases];
  char* bound_[kMaxBases] = {};
  int step_ = 0;
  std::vector<std::unique_ptr<std::vector<int64_t>>> kept_;
  uint32_t* scratch_ = nullptr;
  int64_t scratch_each_ = 0;
};

// Points c at a padded NHWC input of `channels` channels (h x w interior, pad already in the buffer) read with a k x k window.
// Neighbouring taps of one row are merged where they are contiguous (no groups).
void set_window(Conv& c, Plan& plan, Type type, const void* x, int64_t padded_h, int64_t padded_w, int64_t channels, int64_t groups,
                int64_t kernel_h, int64_t kernel_w, int64_t stride);

}  // namespace regnet_kernels::cpu
