// Plans of packed networks, kept from call to call: planning a network costs more than its kernels need on a small image.
//
// A plan holds for one program, shape and strides of the input, and number of workers; where the tensors and the working memory
// are is told to it before each call (Plan::bind). A call takes a plan out and gives it back: a second caller at the same
// time makes one of its own, and both are kept.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "network.h"
#include "plan.h"

namespace regnet_kernels::cpu {

struct PlanKey {
  TensorView x;  // without data
  Type type;
  int workers;
  int64_t weights_count, params_count;
  std::vector<int64_t> program;
};

struct NetworkPlan {
  PlanKey key;
  Shape output;
  Plan plan;
  std::shared_ptr<const Choices> choices;  // by which it was made
  std::vector<size_t> pieces;              // of working memory, in bytes: base kFirstPiece + i
  std::vector<LayerMade> layers;
};

// The plan of such a call, or null; `x.data` is not looked at. choices: those that are set, by which to make one.
std::unique_ptr<NetworkPlan> take_plan(const TensorView& x, Type type, const PackedProgram& program, int workers,
                                       std::shared_ptr<const Choices>& choices);
// Keeps it for a later call, in place of those that were not used for longest.
void keep_plan(std::unique_ptr<NetworkPlan> plan);
// The choices of plans that are made from here on. No plan that was made by others is used by a later call.
void set_choices(std::shared_ptr<const Choices> choices);

}  // namespace regnet_kernels::cpu
