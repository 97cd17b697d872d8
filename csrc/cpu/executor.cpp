#include "executor.h"

#include <atomic>
#include <chrono>
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

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct alignas(64) Counter {
  std::atomic<int> value{0};
};

}  // namespace

void run_phases(const std::vector<Phase>& phases, int workers, const Fork& fork, double* seconds) {
  if (workers <= 1) {
    for (size_t i = 0; i < phases.size(); i++) {
      const double begin = seconds ? now() : 0;
      for (int t = 0; t < phases[i].tasks; t++) phases[i].run(t, 0);
      if (seconds) seconds[i] = now() - begin;
    }
    return;
  }
  // next[phase][part]: tasks taken of each worker's part; done[phase]: tasks finished.
  const size_t count = phases.size();
  const std::unique_ptr<Counter[]> next(new Counter[count * workers]), done(new Counter[count]);
  fork(workers, [&](int worker) {
    for (size_t i = 0; i < count; i++) {
      const Phase& phase = phases[i];
      const double start = seconds && worker == 0 ? now() : 0;
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
      if (seconds && worker == 0) seconds[i] = now() - start;
    }
  });
}

}  // namespace regnet_kernels::cpu
