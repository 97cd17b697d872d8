// A packed network, run as one list of phases.
#pragma once
#include <cstdint>
#include <vector>

#include "executor.h"
#include "program.h"
#include "tensor_view.h"

namespace regnet_kernels::cpu {

struct Shape {
  int64_t c, h, w;
  bool pooled;  // after a head: (N, c)
};
// Throws std::invalid_argument when x's channels do not fit or a map would be empty.
Shape network_output(const std::vector<Step>& steps, int64_t c, int64_t h, int64_t w);

// x: any strides; bfloat16 for bfloat16 weights, float32 or float16 for float32 weights. out: dense (N, H', W', C') or
// (N, classes) of x's type.
void run_network(const TensorView& x, Type type, const void* weights, const float* params, const std::vector<Step>& steps,
                 void* out, int workers, const Fork& fork);

// Where the time goes: the same, `repeats` times, with the seconds of each phase in each of them.
struct PhaseTime {
  int step;
  Work work;
  double macs;  // nominal multiply-adds
  std::vector<double> seconds;
};
std::vector<PhaseTime> profile_network(const TensorView& x, Type type, const void* weights, const float* params,
                                       const std::vector<Step>& steps, void* out, int workers, const Fork& fork, int repeats);

}  // namespace regnet_kernels::cpu
