#include "arena.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#endif

namespace regnet_kernels::cpu {
namespace {

constexpr size_t kHugePage = 2 << 20;
constexpr size_t kPooledBlocks = 4;  // callers at the same time that find a warm block

struct Pool {
  std::mutex mutex;
  std::vector<std::pair<char*, size_t>> blocks;
};
Pool& pool() {
  static Pool* p = new Pool;  // never destroyed: a call may end after static destructors ran
  return *p;
}

#if defined(__linux__)
// A fork() while another thread holds the mutex would leave it locked in the child for ever: so the fork takes it first.
[[maybe_unused]] const int watch_forks =
    pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); }, [] { pool().mutex.unlock(); });
#endif

}  // namespace

Arena::Arena(size_t bytes) {
  {
    std::lock_guard<std::mutex> lock(pool().mutex);
    auto& blocks = pool().blocks;
    size_t best = blocks.size();
    for (size_t i = 0; i < blocks.size(); i++)
      if (blocks[i].second >= bytes && (best == blocks.size() || blocks[i].second < blocks[best].second)) best = i;
    if (best != blocks.size()) {
      base_ = blocks[best].first;
      size_ = blocks[best].second;
      blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(best));
      return;
    }
  }
  const size_t unit = bytes >= kHugePage ? kHugePage : 4096;
  size_ = (bytes + unit - 1) / unit * unit;
  if (size_ == 0) size_ = unit;
  base_ = static_cast<char*>(std::aligned_alloc(unit, size_));
  if (base_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  if (unit == kHugePage) madvise(base_, size_, MADV_HUGEPAGE);  // fewer TLB misses on strided reads; a hint only
#endif
}

Arena::~Arena() {
  std::pair<char*, size_t> smallest{base_, size_};
  {
    std::lock_guard<std::mutex> lock(pool().mutex);
    auto& blocks = pool().blocks;
    blocks.push_back(smallest);
    if (blocks.size() <= kPooledBlocks) return;
    size_t at = 0;
    for (size_t i = 1; i < blocks.size(); i++)
      if (blocks[i].second < blocks[at].second) at = i;
    smallest = blocks[at];
    blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(at));
  }
  std::free(smallest.first);
}

void* Arena::take_bytes(size_t bytes) {
  const size_t size = padded(bytes);
  if (used_ + size > size_) throw std::logic_error("regnet_kernels: arena too small; this is a bug in its sizing");
  void* p = base_ + used_;
  used_ += size;
  return p;
}

}  // namespace regnet_kernels::cpu
