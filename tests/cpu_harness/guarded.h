// Memory that catches what a kernel must not do: it ends at a page that faults, begins after bytes that are looked at again,
// is filled with NaN, and can be made read-only.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

class Guarded {
 public:
  // `tail` bytes between the data and the faulting page: moves the data off the alignment that its size gives it.
  explicit Guarded(size_t bytes = 0, size_t tail = 0) : bytes_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    body_ = (bytes + tail + kFront + page - 1) / page * page;
    mapped_ = body_ + page;
    map_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (map_ == MAP_FAILED || mprotect(map_ + body_, page, PROT_NONE) != 0) throw std::bad_alloc();
    std::memset(map_, kPattern, body_);
    data_ = map_ + body_ - tail - bytes;
    poison();
  }
  ~Guarded() {
    if (map_ == nullptr) return;
    check();
    munmap(map_, mapped_);
  }
  Guarded(Guarded&& o) noexcept { swap(o); }
  Guarded& operator=(Guarded&& o) noexcept {
    swap(o);
    return *this;
  }

  template <class T>
  T* as() const { return reinterpret_cast<T*>(data_); }
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void poison() { std::memset(data_, 0xff, bytes_); }  // NaN as float32, bfloat16 and float16
  void protect() { mprotect(map_, body_, PROT_READ); }

  // Ends the program if something wrote in front of the data.
  void check() const {
    for (const char* p = map_; p < data_; p++)
      if (*p != kPattern) {
        std::fprintf(stderr, "FAIL: a write %td bytes in front of a buffer of %zu bytes\n", data_ - p, bytes_);
        std::_Exit(3);
      }
  }

 private:
  static constexpr size_t kFront = 256;
  static constexpr char kPattern = 0x5a;
  void swap(Guarded& o) {
    std::swap(map_, o.map_);
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    std::swap(body_, o.body_);
    std::swap(mapped_, o.mapped_);
  }
  char *map_ = nullptr, *data_ = nullptr;
  size_t bytes_ = 0, body_ = 0, mapped_ = 0;
};
