// Random networks in the packed form that regnet_kernels/packing.py describes, written from its description alone.
#pragma once
#include <string>

#include "cpu/program.h"
#include "data.h"

// matrix (rows, k) -> panels of 16 lanes, the last of 8 where 8 suffice; bfloat16 in pairs along k
void add_panels(std::vector<double>& values, Scalar type, const double* matrix, int64_t rows, int64_t k);
// panels of 8 lanes, pairs of words along k
void add_pairs(std::vector<double>& values, Scalar type, const double* matrix, int64_t rows, int64_t k);

struct Layer {  // one step, with the values of its weights as packed
  StepKind kind;
  int64_t c_in, c_mid, c_out, kernel, stride, padding, group_width, squeeze;
  bool projection, winograd, pairs;
  Activation activation;
  // conv: weights in b, bias in b_bias; head: weights in c, bias in c_bias; se_w2 is (channels, squeeze)
  std::vector<double> a, b, c, shortcut, a_bias, b_bias, c_bias, se_w1, se_b1, se_w2, se_b2;
  std::vector<int64_t> order{};  // of a block: the inner channel at each position of its maps
  std::vector<double> c_ordered{};  // and c, its columns in that order
};

Layer conv_layer(int64_t c_in, int64_t c_out, int64_t kernel, int64_t stride, int64_t groups = 1, Activation activation = Activation::relu);
struct BlockShape {
  int64_t stride = 1, squeeze = 0;
  bool winograd = false;
  Activation activation = Activation::relu;
  bool pairs = false;  // in float32
};
// A block has a projection where its shape changes, or where `always_project` says so.
Layer block_layer(int64_t c_in, int64_t c_mid, int64_t c_out, int64_t group_width, BlockShape shape = {}, bool always_project = false);
Layer head_layer(int64_t c_in, int64_t c_out);

struct Network {
  Type type;
  std::vector<Layer> layers;
  std::vector<int64_t> program;
  Guarded weights, params;
  int64_t weights_count, params_count;

  std::vector<Step> parse() const { return parse_program(program.data(), static_cast<int64_t>(program.size()), type, weights_count, params_count); }
};
Network pack(Random& random, Type type, std::vector<Layer> layers);
std::string describe(const Network& network);
