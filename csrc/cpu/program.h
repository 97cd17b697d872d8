// A packed stretch of RegNet as the Python side wrote it (regnet_kernels/packing.py has the format): parsed and checked.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace regnet_kernels::cpu {

inline constexpr int64_t kProgramVersion = 7, kStepInts = 16;

enum class StepKind : int { conv = 0, block = 1, head = 2 };

struct Step {
  StepKind kind;
  int64_t c_in, c_mid, c_out, kernel, stride, padding, group_width, se_width;
  bool has_projection, has_winograd, has_pairs;
  Activation activation;
  // elements into the weights and params blobs
  int64_t a, b, c, u, fc;  // u: b, transformed for Winograd, in bfloat16
  int64_t conv_w, conv_bias, a_bias, b_bias, se_w1, se_b1, se_w2t, se_b2, c_bias, a_pairs, c_pairs, fc_bias;

  int64_t out_side(int64_t side) const { return kind == StepKind::head ? 1 : (side + 2 * padding - kernel) / stride + 1; }
};

// Throws std::invalid_argument with what is wrong: version, sizes, or blobs shorter than the program needs.
std::vector<Step> parse_program(const int64_t* program, int64_t length, Type type, int64_t weights_count, int64_t params_count);

}  // namespace regnet_kernels::cpu
