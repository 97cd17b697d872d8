// What the cuts of all phases into tasks go by. Included by plan.cpp and plan_winograd.cpp.
#pragma once
#include <cstdint>

namespace regnet_kernels::cpu {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Multiply-adds below which a task is not worth its counter and its prologue (about 2 microseconds of one core).
inline constexpr int64_t kTaskMacs = 150'000;
inline constexpr int64_t kTasksPerWorker = 4;  // so that a core slowed by its neighbours costs a quarter of a phase, not half
inline constexpr int64_t kPairTasksPerWorker = 2;  // of 1x1's by pairs, which are faster in longer runs of panels (networks 0 to 1.2 % faster than with 4)

}  // namespace regnet_kernels::cpu
