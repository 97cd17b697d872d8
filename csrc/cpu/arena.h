// Working memory of one call: a bump allocator over a block that returns to a small process-wide pool afterwards, so that a
// steady stream of calls touches no fresh pages (a page fault costs as much as 4 KiB of copying at 8 GB/s).
#pragma once
#include <cstddef>
#include <cstdint>

namespace regnet_kernels::cpu {

class Arena {
 public:
  explicit Arena(size_t bytes);  // throws std::bad_alloc
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 64-byte aligned, uninitialised, at least `count` Ts and one vector of slack behind. The bytes must have been counted.
  template <class T>
  T* take(size_t count) { return static_cast<T*>(take_bytes(count * sizeof(T))); }
  static size_t padded(size_t bytes) { return (bytes + 64 + 63) / 64 * 64; }

 private:
  void* take_bytes(size_t bytes);
  char* base_;
  size_t size_, used_ = 0;
};

}  // namespace regnet_kernels::cpu
