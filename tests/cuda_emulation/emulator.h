// Runs a CUDA kernel on the host: every thread of a block is a fiber, blocks are spread over OpenMP threads.
//
// Beside computing, it watches. Shared memory carries a shadow that knows, for every 4 bytes, who wrote and read them
// since the last barrier and whether a copy to them is under way: a missing barrier, a missing or too lax wait, and a
// read of what was never written are found by what the program says, not by luck of a schedule. Global memory may be
// touched only inside the regions that the host declared, and stores are counted. Several schedules run the threads in
// different orders, with copies as late or as early as the program allows. The first finding is kept as text.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Which thread of a block goes on next. In the greedy orders a warp runs as far as it can before another starts.
enum class Order { forward, backward, shuffled, greedy, greedy_backward, count };

struct Schedule {
  Order order = Order::forward;
  bool eager_copies = false;  // copies happen when they are started; else when they are waited for
};

struct Region {
  uintptr_t begin = 0, end = 0;
  bool writable = false;
  std::vector<uint8_t>* stores = nullptr;  // one counter for every 2 bytes
};

// ---------------------------------------------------------------- fibers

#if defined(__x86_64__)
// Saves the callee-saved registers on this stack, leaves its pointer in *save, and goes on where `to` was left.
extern "C" void regnet_emulator_switch(void** save, void* to);
asm(R"(
.text
.weak regnet_emulator_switch
.type regnet_emulator_switch, @function
regnet_emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size regnet_emulator_switch, . - regnet_emulator_switch
)");
#endif

constexpr size_t kStackBytes = 64 * 1024;

class Context {
 public:
  Context() = default;
  Context(const Context&) = delete;

  // For a fiber: the next `enter` starts `entry` on `stack`.
  void prepare(char* stack, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack, kStackBytes);
    bottom_ = stack, size_ = kStackBytes;
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(stack + kStackBytes);
    *--top = nullptr;  // keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    top -= 6;
    std::fill(top, top + 6, nullptr);
    pointer_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  // Leaves the running context in `from` and goes on in this one.
  void enter(Context& from) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, bottom_, size_);
#endif
#if defined(__x86_64__)
    regnet_emulator_switch(&from.pointer_, pointer_);
#else
    swapcontext(&from.context_, &context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  // First thing in a fiber: learns the bounds of the stack that it came from.
  static void arrive([[maybe_unused]] Context& from) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &from.bottom_, &from.size_);
#endif
  }

 private:
#if defined(__x86_64__)
  void* pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom_ = nullptr;
  size_t size_ = 0;
#endif
};

// ---------------------------------------------------------------- what is watched

class Findings {
 public:
  void add(const std::string& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (first_.empty()) first_ = text;
    any_ = true;
  }
  bool any() const { return any_; }
  std::string first() const { return first_; }

 private:
  std::mutex mutex_;
  std::string first_;
  std::atomic<bool> any_{false};
};

// Shared memory of a block, with the story of every 4 bytes. Barriers cut time into epochs.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes) : bytes_(bytes), data_(new char[bytes + 16]), cells_((bytes + 3) / 4) {}

  void start_block() {
    begin_ = ++epoch_;
    std::memset(data(), 0xFF, bytes_);  // NaN in every format
  }
  void pass_barrier() { ++epoch_; }
  size_t bytes() const { return bytes_; }
  char* data() const { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(data_.get()) + 15) & ~uintptr_t{15}); }

  // Each returns nullptr, or what is wrong.
  const char* read(uint32_t from, size_t bytes, int thread) {
    if (const char* wrong = check(from, bytes)) return wrong;
    for (Cell& cell : range(from, bytes)) {
      if (cell.in_flight) return "read of shared memory while a copy to it is under way (wait_copies missing or too lax)";
      if (cell.written < begin_) return "read of shared memory that was never written";
      if (cell.written == epoch_ && cell.writer != thread) return "read of what another thread wrote, without a barrier between";
      cell.reader = cell.read == epoch_ && cell.reader != thread ? kSeveral : thread;
      cell.read = epoch_;
    }
    return nullptr;
  }
  // As `read`, but of what may never have been written.
  const char* look(uint32_t from, size_t bytes, int thread) {
    if (const char* wrong = check(from, bytes)) return wrong;
    for (uint32_t at = from; at < from + bytes; at += 4) {
      if (cells_[at / 4].written < begin_) continue;
      if (const char* wrong = read(at, 4, thread)) return wrong;
    }
    return nullptr;
  }
  const char* write(uint32_t to, size_t bytes, int thread, bool in_flight) {
    if (const char* wrong = check(to, bytes)) return wrong;
    for (Cell& cell : range(to, bytes)) {
      if (cell.in_flight && cell.written >= begin_) return "write to shared memory while a copy to it is under way";
      if (cell.read == epoch_ && cell.reader != thread) return "overwrite of what another thread read, without a barrier between";
      if (cell.written == epoch_ && cell.writer != thread) return "two threads write the same shared memory";
      cell.written = epoch_;
      cell.writer = thread;
      cell.in_flight = in_flight;
    }
    return nullptr;
  }
  void arrived(uint32_t to, size_t bytes) {
    for (Cell& cell : range(to, bytes)) cell.in_flight = false, cell.written = epoch_;
  }

 private:
  static constexpr int kSeveral = -2;
  struct Cell {
    uint64_t written = 0, read = 0;
    int writer = -1, reader = -1;
    bool in_flight = false;
  };
  struct Range {
    Cell *first, *last;
    Cell* begin() const { return first; }
    Cell* end() const { return last; }
  };

  const char* check(uint32_t at, size_t bytes) const {
    if (at % std::min<size_t>(bytes, 16)) return "misaligned access to shared memory";
    return size_t{at} + bytes > bytes_ ? "access beyond the block's shared memory" : nullptr;
  }
  Range range(uint32_t at, size_t bytes) { return {&cells_[at / 4], &cells_[at / 4] + bytes / 4}; }

  size_t bytes_;
  std::unique_ptr<char[]> data_;
  std::vector<Cell> cells_;
  uint64_t epoch_ = 0, begin_ = 0;
};

// ---------------------------------------------------------------- a block

enum class State { ready, at_collective, at_barrier, done };

struct Copy {
  uint32_t to;
  const void* from;
  bool valid;
  int group;
};

struct Fiber {
  Context context;
  State state = State::ready;
  std::vector<Copy> copies;
  int groups = 0;
  bool fenced = false;  // since its last copy was started
};

constexpr int kLanes = 32;

struct Warp {
  int arrived = 0;
  const char* operation = nullptr;
  const void* argument[kLanes][3];
};

struct Launch {
  Dim3 grid;
  int threads;
  Schedule schedule;
  const std::vector<Region>& regions;
  Findings& findings;
  std::function<void()> kernel;
};

class Block;
inline thread_local Block* running = nullptr;
inline thread_local Dim3 thread_index, block_index;

class Block {
 public:
  Block(const Launch& launch, size_t shared_bytes)
      : shared(shared_bytes), launch_(launch), fibers_(launch.threads), warps_((launch.threads + kLanes - 1) / kLanes) {
    const size_t bytes = kStackBytes * launch.threads;
    stacks_ = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks_ == MAP_FAILED) std::abort();
  }
  ~Block() { munmap(stacks_, kStackBytes * launch_.threads); }
  Block(const Block&) = delete;

  void run(Dim3 index, uint64_t seed) {
    running = this;
    block_index = index;
    random_ = seed * 2 + 1;
    failed_ = false;
    shared.start_block();
    for (Warp& warp : warps_) warp = Warp{};
    for (int i = 0; i < launch_.threads; ++i) {
      Fiber& fiber = fibers_[i];
      fiber.state = State::ready;
      fiber.copies.clear();
      fiber.groups = 0;
      fiber.context.prepare(stacks_ + kStackBytes * i, &Block::entry);
    }
    while (!failed_ && count(State::done) < launch_.threads) round();
  }

  // Called by fibers.
  int thread() const { return current_; }
  Fiber& fiber() { return fibers_[current_]; }
  const Schedule& schedule() const { return launch_.schedule; }

  void barrier() { wait_in(State::at_barrier); }

  // Every lane of the warp brings its arguments; the last one runs `all` for the warp.
  template <class All>
  void collective(const char* operation, const void* a, const void* b, const void* c, All&& all) {
    Warp& warp = warps_[current_ / kLanes];
    if (warp.arrived && warp.operation != operation) {
      return fail(std::string("lanes of a warp part: some at ") + warp.operation + ", some at " + operation);
    }
    warp.operation = operation;
    const int lane = current_ % kLanes, first = current_ - lane, lanes = std::min(kLanes, launch_.threads - first);
    warp.argument[lane][0] = a, warp.argument[lane][1] = b, warp.argument[lane][2] = c;
    if (++warp.arrived < lanes) return wait_in(State::at_collective);
    warp.arrived = 0;
    all(warp, first);
    for (int i = first; i < first + lanes; ++i) {
      if (fibers_[i].state == State::at_collective) fibers_[i].state = State::ready;
    }
  }

  void check(const char* wrong) {
    if (wrong) fail(wrong);
  }

  // Notes what is wrong and gives the whole block up: the calling fiber is never entered again.
  void fail(const std::string& wrong) {
    char where[96];
    std::snprintf(where, sizeof where, " (block %u, %u; thread %d)", block_index.x, block_index.y, current_);
    launch_.findings.add(wrong + where);
    failed_ = true;
    scheduler_.enter(fiber().context);
    std::abort();
  }

  // True if [at, at + bytes) lies in a declared region; fails otherwise.
  void check_global(const void* at, size_t bytes, bool store) {
    const auto begin = reinterpret_cast<uintptr_t>(at);
    if (begin % bytes) return fail("misaligned access to global memory");
    for (const Region& region : launch_.regions) {
      if (begin < region.begin || begin + bytes > region.end) continue;
      if (store && !region.writable) return fail("store to read-only global memory");
      if (store && region.stores) {
        for (size_t i = (begin - region.begin) / 2; i < (begin - region.begin + bytes) / 2; ++i) {
          std::atomic_ref<uint8_t>((*region.stores)[i]).fetch_add(1, std::memory_order_relaxed);
        }
      }
      return;
    }
    fail(store ? "store outside every tensor" : "load outside every tensor");
  }

  void finish_copy(const Copy& copy) {
    if (copy.valid) std::memcpy(shared.data() + copy.to, copy.from, 16);
    else std::memset(shared.data() + copy.to, 0, 16);
  }

  SharedMemory shared;

 private:
  static void entry() {
    Block& block = *running;
    Context::arrive(block.scheduler_);
    block.launch_.kernel();
    block.wait_in(State::done);
    std::abort();
  }

  void wait_in(State state) {
    fiber().state = state;
    scheduler_.enter(fiber().context);
  }

  bool step(int i) {
    if (failed_ || fibers_[i].state != State::ready) return false;
    current_ = i;
    thread_index = {static_cast<unsigned>(i), 0, 0};
    fibers_[i].context.enter(scheduler_);
    return true;
  }

  bool run_warp(int warp) {
    bool ran = false;
    for (bool any = true; any;) {
      any = false;
      for (int i = warp * kLanes; i < std::min(launch_.threads, (warp + 1) * kLanes); ++i) any |= step(i);
      ran |= any;
    }
    return ran;
  }

  void round() {
    const int threads = launch_.threads, warps = static_cast<int>(warps_.size());
    bool ran = false;
    switch (launch_.schedule.order) {
      case Order::forward: for (int i = 0; i < threads; ++i) ran |= step(i); break;
      case Order::backward: for (int i = threads - 1; i >= 0; --i) ran |= step(i); break;
      case Order::shuffled: for (int i : shuffled(threads)) ran |= step(i); break;
      case Order::greedy: for (int i = 0; i < warps; ++i) ran |= run_warp(i); break;
      default: for (int i = warps - 1; i >= 0; --i) ran |= run_warp(i); break;
    }
    if (ran || failed_) return;
    const int done = count(State::done), waiting = count(State::at_barrier);
    if (waiting && done + waiting == threads) {
      // CUDA lets threads that have ended pass, but a barrier that only some reach is a bug waiting to happen.
      if (done) launch_.findings.add("a barrier that some threads never reach");
      shared.pass_barrier();
      for (Fiber& fiber : fibers_) if (fiber.state == State::at_barrier) fiber.state = State::ready;
    } else if (done < threads) {
      launch_.findings.add("deadlock: some threads wait at a barrier, others at a warp's operation");
      failed_ = true;
    }
  }

  std::vector<int> shuffled(int threads) {
    std::vector<int> order(threads);
    for (int i = 0; i < threads; ++i) order[i] = i;
    for (int i = threads - 1; i > 0; --i) {
      random_ = random_ * 6364136223846793005u + 1442695040888963407u;
      std::swap(order[i], order[(random_ >> 33) % (i + 1)]);
    }
    return order;
  }

  int count(State state) const {
    return static_cast<int>(std::count_if(fibers_.begin(), fibers_.end(), [&](const Fiber& f) { return f.state == state; }));
  }

  const Launch& launch_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  Context scheduler_;
  char* stacks_;
  int current_ = 0;
  bool failed_ = false;
  uint64_t random_ = 1;
};

inline void run(const Launch& launch, size_t shared_bytes) {
  const long long blocks = 1ll * launch.grid.x * launch.grid.y;
#pragma omp parallel
  {
    Block block(launch, shared_bytes);
#pragma omp for schedule(dynamic)
    for (long long i = 0; i < blocks; ++i) {
      if (launch.findings.any()) continue;
      block.run({static_cast<unsigned>(i % launch.grid.x), static_cast<unsigned>(i / launch.grid.x), 0}, i);
    }
  }
}

}  // namespace emulator
