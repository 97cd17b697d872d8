// In front of the C library's: what csrc/cpu/arena.cpp takes begins as NaN, not as the zeros of a fresh page.
#include <cstdlib>
#include <cstring>

extern "C" void* aligned_alloc(size_t alignment, size_t bytes) noexcept {
  void* block = nullptr;
  if (posix_memalign(&block, alignment, bytes) != 0) return nullptr;
  return std::memset(block, 0xff, bytes);
}
