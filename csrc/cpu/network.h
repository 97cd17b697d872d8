// A packed network, run as one list of phases.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "choices.h"
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

struct PackedProgram {
  const int64_t* ints;
  int64_t length, weights_count, params_count;
};

struct PhaseTime {
  int step;
  Work work;
  double macs;  // nominal multiply-adds
  std::vector<double> seconds;
};

struct NetworkPlan;

// One call of a packed network. Its plan comes from the call before, if that was alike (plan_cache.h), else it is made.
class NetworkCall {
 public:
  // x: any strides; bfloat16 for bfloat16 weights, float32 or float16 for float32 weights. Throws what parse_program and
  // network_output throw.
  NetworkCall(const TensorView& x, Type type, const PackedProgram& program, int workers);
  ~NetworkCall();
  NetworkCall(const NetworkCall&) = delete;
  NetworkCall& operator=(const NetworkCall&) = delete;

  const Shape& output() const;
  const std::vector<LayerMade>& layers() const;  // one a step; none without images
  // out: dense (N, H', W', C') or (N, classes) of x's type.
  void run(const void* weights, const float* params, void* out, const Fork& fork);
  // Where the time goes: the same, `repeats` times, with the seconds of each phase in each of them.
  std::vector<PhaseTime> profile(const void* weights, const float* params, void* out, const Fork& fork, int repeats);

 private:
  template <class Body>
  void with_bound_plan(const void* weights, const float* params, void* out, const Body& body);
  const void* x_;
  std::unique_ptr<NetworkPlan> plan_;
};

}  // namespace regnet_kernels::cpu
