// Turns convolutions, squeezes and conversions into phases of tasks for the executor.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "arena.h"
#include "executor.h"
#include "kernels.h"
#include "tensor_view.h"

namespace regnet_kernels::cpu {

class Plan {
 public:
  Plan(const Kernels& kernels, int workers) : k(kernels), workers(workers) {}

  // Words of scratch that each worker needs for gated convolutions; call before `add_conv` with the widest input.
  static int64_t scratch_words(int64_t gated_steps) { return gated_steps * kMaxTaskPixels + 16; }
  void set_scratch(uint32_t* base, int64_t words_each) { scratch_ = base, scratch_each_ = words_each; }

  // Adds a phase that computes `images` images of c. Where c.pool is set, it must hold images * pool_slots(...) * channels.
  // `extra` tasks (run with indices 0 .. extra-1) join the phase.
  void add_conv(const Conv& c, int64_t images, int extra = 0, std::function<void(int)> extra_run = {});
  int64_t pool_slots(const Conv& c) const;
  // One phase of several convolutions of the same pixels, at most kMostRuns. Where sums are wanted, they have the slots of the first.
  void add_convs(const Conv* convs, int count, int64_t images, int extra = 0, std::function<void(int)> extra_run = {});

  // The same for Winograd convolutions; scratch: winograd_scratch_words(lanes) words for each worker.
  void add_winograds(const Winograd* runs, int count, int64_t images);
  int64_t pool_slots(Winograd w, int64_t images) const;

  // hidden and gate of `images` images: two phases. `pooled` holds workers * images * channels.
  void add_squeeze_excite(const SqueezeExcite& s);

  // Fills a padded NHWC copy of images [first, first + images) of x.
  void add_load(const TensorView& x, int64_t first, int64_t images, int64_t pad, const float* gate, Type type, void* out);

  // Sums over the pixels of each image, and their scaled, rounded means if `means` is not null.
  void add_sum_pixels(Type type, const void* x, int64_t images, int64_t pixels, int64_t channels, float* sums, void* means);

  void add(Work work, int64_t tasks, std::function<void(int, int)> run, double macs = 0) {
    phases_.push_back({static_cast<int>(tasks), std::move(run), work, step_, macs});
  }
  void set_step(int step) { step_ = step; }  // of the phases that are added from here on
  void run(const Fork& fork, double* seconds = nullptr) { run_phases(phases_, workers, fork, seconds); }
  const std::vector<Phase>& phases() const { return phases_; }

  // Tap offsets that outlive the plan's phases.
  const int64_t* keep(std::vector<int64_t> taps);

  const Kernels& k;
  const int workers;

 private:
  std::vector<Phase> phases_;
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
