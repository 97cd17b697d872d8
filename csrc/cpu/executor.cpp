#include "executor.h"

#include <algorithm>
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

struct alignas(64) Counter {
  std::atomic<uint64_t> value{0};
};
constexpr uint64_t kPhaseUnit = uint64_t{1} << 32;
// Looks at `done` before a thread helps the others: threads that end within half a microsecond of each other leave each other's
// counters alone, so that these stay where they are written.
constexpr int kPatience = 16;

// Takes the next of a part's `size` tasks, -1 if all are taken. The counter holds (phase, taken) and is never reset: what an earlier
// phase left in it counts as nothing taken, and what a later one wrote tells a thread that comes late that this phase is over.
int take_task(std::atomic<uint64_t>& counter, uint64_t phase, int size) {
  uint64_t seen = counter.load(std::memory_order_relaxed);
  while (true) {
    if (seen / kPhaseUnit > phase) return -1;
    const int taken = seen / kPhaseUnit == phase ? static_cast<int>(seen % kPhaseUnit) : 0;
    if (taken >= size) return -1;
    if (counter.compare_exchange_weak(seen, phase * kPhaseUnit + static_cast<uint64_t>(taken) + 1, std::memory_order_relaxed)) return taken;
  }
}

}  // namespace

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void run_phases(const std::vector<Phase>& phases, int workers, const Fork& fork, double* seconds) {
  if (workers <= 1) {
    for (size_t i = 0; i < phases.size(); i++) {
      const double begin = seconds ? seconds_now() : 0;
      for (int t = 0; t < phases[i].tasks; t++) phases[i].body->run(t, 0);
      if (seconds) seconds[i] = seconds_now() - begin;
    }
    return;
  }
  // parts: tasks taken of each worker's part of the current phase; done: tasks finished since the beginning. A few cache lines that stay
  // with the cores, however long the list.
  const size_t count = phases.size();
  const std::unique_ptr<Counter[]> parts(new Counter[static_cast<size_t>(workers)]);
  Counter done;
  // Of the profile: when each phase's last task was finished, by whomever, and when the first thread began.
  std::vector<double> ends(seconds ? count : 0);
  std::atomic<bool> begun{false};
  double begin_time = 0;
  fork(workers, [&](int worker) {
    if (seconds && !begun.exchange(true)) begin_time = seconds_now();
    uint64_t target = 0;  // tasks of all phases up to this one
    for (size_t i = 0; i < count; i++) {
      const Phase& phase = phases[i];
      target += static_cast<uint64_t>(phase.tasks);
      if (done.value.load(std::memory_order_acquire) >= target) continue;  // the others did it before this thread came
      const auto take = [&](int part) {  // all that is left of a part
        const int begin = static_cast<int>(static_cast<int64_t>(phase.tasks) * part / workers);
        const int size = static_cast<int>(static_cast<int64_t>(phase.tasks) * (part + 1) / workers) - begin;
        int finished = 0;
        for (int t; (t = take_task(parts[part].value, i + 1, size)) >= 0; finished++) phase.body->run(begin + t, worker);
        if (!finished) return;
        const uint64_t all = done.value.fetch_add(static_cast<uint64_t>(finished), std::memory_order_acq_rel) + static_cast<uint64_t>(finished);
        if (seconds && all == target) ends[i] = seconds_now();
      };
      take(worker);
      for (int spins = 0; done.value.load(std::memory_order_acquire) < target; spins++) {
        if (spins == kPatience)
          for (int turn = 1; turn < workers; turn++) take((worker + turn) % workers);
        relax(spins);
      }
    }
  });
  if (!seconds) return;
  for (size_t i = 0; i < count; i++) {
    const double end = std::max(ends[i], begin_time);  // 0 of a phase without tasks
    seconds[i] = end - begin_time;
    begin_time = end;
  }
}

}  // namespace regnet_kernels::cpu
