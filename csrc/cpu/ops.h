// Single ops on plain tensors: each packs, converts and runs what it needs.
#pragma once
#include <cstdint>

#include "executor.h"
#include "kernels.h"
#include "tensor_view.h"

namespace regnet_kernels::cpu {

struct ConvArgs {
  TensorView x;
  WeightView weight;         // (O, C / groups, kh, kw)
  const float* bias;         // (O) or null
  const TensorView* residual;  // (N, O, H', W') or null
  const float* gate;         // (N, C) or null
  int64_t stride, padding, groups;
  Activation activation;
  void* out;                 // dense NHWC of x's type
  float* sums;               // (N, O) or null
  int64_t out_h, out_w;
};
void run_conv(const ConvArgs& args, int workers, const Fork& fork);

struct SeWeights {  // float32, dense
  const float *w1, *b1, *w2, *b2;  // (S, C), (S), (C, S), (C)
  int64_t channels, squeeze;
};
void run_se_gate(const float* sums, int64_t images, float inverse_count, const SeWeights& w, float* gate, int workers, const Fork& fork);
void run_squeeze_excite(const TensorView& x, const SeWeights& w, void* out, int workers, const Fork& fork);

// GFLOP/s of float32 multiply-adds that `workers` threads sustain together for about `seconds`.
double fma_peak(Type type, double seconds, int workers, const Fork& fork);

}  // namespace regnet_kernels::cpu
