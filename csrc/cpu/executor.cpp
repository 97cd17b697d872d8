#include "executor.h"

#include <atomic>
#include <memory>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace regnet_kernels::cpu {
namespace {

void relax(int spins) {
  if (spins > 4096) {  // the others lost their core: give them ours
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct alignas(64) Counter {
  std::atomic<int> value{0};
};

}  // namespace

void run_phases(const std::vector<Phase>& phases, int workers, const Fork& fork) {
  if (workers <= 1) {
    for (const Phase& phase : phases)
      for (int t = 0; t < phase.tasks; t++) phase.run(t, 0);
    return;
  }
  // next[phase][part]: tasks taken of each worker's part; done[phase]: tasks finished.
  const size_t count = phases.size();
  const std::unique_ptr<Counter[]> next(new Counter[count * workers]), done(new Counter[count]);
  fork(workers, [&](int worker) {
    for (size_t i = 0; i < count; i++) {
      const Phase& phase = phases[i];
      int finished = 0;
      for (int turn = 0; turn < workers; turn++) {
        const int part = (worker + turn) % workers;
        const int begin = static_cast<int>(static_cast<int64_t>(phase.tasks) * part / workers);
        const int size = static_cast<int>(static_cast<int64_t>(phase.tasks) * (part + 1) / workers) - begin;
        std::atomic<int>& taken = next[i * workers + part].value;
        while (taken.load(std::memory_order_relaxed) < size) {
          const int t = taken.fetch_add(1, std::memory_order_relaxed);
          if (t >= size) break;
          phase.run(begin + t, worker);
          finished++;
        }
      }
      if (finished) done[i].value.fetch_add(finished, std::memory_order_acq_rel);
      for (int spins = 0; done[i].value.load(std::memory_order_acquire) < phase.tasks; spins++) relax(spins);
    }
  });
}

}  // namespace regnet_kernels::cpu
