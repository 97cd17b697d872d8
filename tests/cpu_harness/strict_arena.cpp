// In place of csrc/cpu/arena.cpp: each piece is guarded and full of NaN, where the real arena's pieces lie side by side and
// hold what the call before left there.
#include "cpu/arena.h"

#include <cstdio>
#include <vector>

#include "guarded.h"

namespace regnet_kernels::cpu {

Arena::Arena(size_t bytes) : base_(reinterpret_cast<char*>(new std::vector<Guarded>)), size_(bytes) {}

Arena::~Arena() { delete reinterpret_cast<std::vector<Guarded>*>(base_); }

void* Arena::take_bytes(size_t bytes) {
  const size_t size = padded(bytes);  // a multiple of 64, as the page is: the data is aligned like the real arena's
  if (used_ + size > size_) {
    std::fprintf(stderr, "FAIL: arena too small: %zu of %zu bytes taken, %zu wanted\n", used_, size_, size);
    std::_Exit(3);
  }
  used_ += size;
  auto& pieces = *reinterpret_cast<std::vector<Guarded>*>(base_);
  pieces.emplace_back(size);
  return pieces.back().data();
}

}  // namespace regnet_kernels::cpu
