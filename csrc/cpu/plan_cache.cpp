#include "plan_cache.h"

#include <algorithm>
#include <mutex>

#if defined(__linux__)
#include <pthread.h>
#endif

namespace regnet_kernels::cpu {
namespace {

constexpr size_t kMaxPlans = 64;
constexpr size_t kMaxPhases = 8192;  // of all together: about 4 MiB

struct Cache {
  std::mutex mutex;
  std::vector<std::unique_ptr<NetworkPlan>> plans;  // the last one was used last
  size_t phases = 0;
  std::shared_ptr<const Choices> choices = std::make_shared<Choices>(nullptr, 0);

  std::unique_ptr<NetworkPlan> take(size_t i) {
    std::unique_ptr<NetworkPlan> plan = std::move(plans[i]);
    plans.erase(plans.begin() + static_cast<std::ptrdiff_t>(i));
    phases -= plan->plan.phases().size();
    return plan;
  }
};
Cache& cache() {
  static Cache* c = new Cache;  // never destroyed: a call may end after static destructors ran
  return *c;
}

#if defined(__linux__)
// A fork() while another thread holds the mutex would leave it locked in the child for ever: so the fork takes it first.
[[maybe_unused]] const int watch_forks =
    pthread_atfork([] { cache().mutex.lock(); }, [] { cache().mutex.unlock(); }, [] { cache().mutex.unlock(); });
#endif

bool same(const TensorView& a, const TensorView& b) {
  return a.scalar == b.scalar && a.n == b.n && a.c == b.c && a.h == b.h && a.w == b.w && a.stride_n == b.stride_n && a.stride_c == b.stride_c &&
         a.stride_h == b.stride_h && a.stride_w == b.stride_w;
}

}  // namespace

std::unique_ptr<NetworkPlan> take_plan(const TensorView& x, Type type, const PackedProgram& program, int workers,
                                       std::shared_ptr<const Choices>& choices) {
  std::lock_guard<std::mutex> lock(cache().mutex);
  for (size_t i = cache().plans.size(); i-- > 0;) {
    const PlanKey& key = cache().plans[i]->key;
    if (same(key.x, x) && key.type == type && key.workers == workers && key.weights_count == program.weights_count &&
        key.params_count == program.params_count && std::equal(key.program.begin(), key.program.end(), program.ints, program.ints + program.length))
      return cache().take(i);
  }
  choices = cache().choices;
  return nullptr;
}

void keep_plan(std::unique_ptr<NetworkPlan> plan) {
  const size_t phases = plan->plan.phases().size();
  if (phases > kMaxPhases) return;
  std::vector<std::unique_ptr<NetworkPlan>> dropped;  // freed behind the lock
  std::lock_guard<std::mutex> lock(cache().mutex);
  if (plan->choices != cache().choices) return dropped.push_back(std::move(plan));
  cache().plans.push_back(std::move(plan));
  cache().phases += phases;
  while (cache().plans.size() > kMaxPlans || cache().phases > kMaxPhases) dropped.push_back(cache().take(0));
}

void set_choices(std::shared_ptr<const Choices> choices) {
  std::vector<std::unique_ptr<NetworkPlan>> dropped;
  std::lock_guard<std::mutex> lock(cache().mutex);
  cache().choices.swap(choices);
  cache().plans.swap(dropped);
  cache().phases = 0;
}

}  // namespace regnet_kernels::cpu
