// How the gate of a squeeze-excite is cut into thread blocks. Plain C++: no CUDA, no torch.
#pragma once

#include <algorithm>

namespace regnet_kernels {

// gate (images, channels) from sums (images, tiles, channels); `count` pixels were summed for each channel. transposed: the
// second layer's weights are (squeeze, channels), else (channels, squeeze).
struct Gate {
  int images, tiles, channels, squeeze;
  float count;
  int transposed = 0;
};

constexpr int kGateThreads = 256;
constexpr int kGateLanes = 8;                                   // lanes that share a dot product
constexpr int kGateOutputs = kGateThreads / kGateLanes;         // dot products of a block at a time
constexpr int kGateShared = 48 * 1024;                          // what a kernel gets without asking
constexpr int kGateMaxSlices = 8;  // each computes the hidden layer for itself: more would hardly shorten a block's work

struct GatePlan {
  Gate gate;
  int images;                       // of a block: 1, 2, 4 or 8, which share each weight that is read
  int mean_pitch, hidden_pitch;     // floats of an image in shared memory, multiples of 4
  int slice;                        // channels of the gate of a block
  int shared_bytes;
  unsigned grid_x, grid_y;          // groups of images, slices
};

// Whether one image's means and hidden layer fit into shared memory.
constexpr bool gate_fits(long long channels, long long squeeze) {
  return channels + squeeze + 6 <= kGateShared / 4;
}

// images > 0, channels > 0, squeeze >= 0, gate_fits(channels, squeeze).
inline GatePlan plan_se_gate(const Gate& gate, int multiprocessors) {
  GatePlan plan{};
  plan.gate = gate;
  plan.mean_pitch = (gate.channels + 3) / 4 * 4;
  plan.hidden_pitch = (gate.squeeze + 3) / 4 * 4;
  const int bytes = (plan.mean_pitch + plan.hidden_pitch) * 4;
  const auto groups = [&] { return (gate.images + plan.images - 1) / plan.images; };
  plan.images = 8;
  while (plan.images > 1 && (plan.images * bytes > kGateShared || plan.images >= 2 * gate.images ||
                             groups() * kGateMaxSlices < multiprocessors)) {
    plan.images /= 2;
  }
  const int rounds = (gate.channels + kGateOutputs - 1) / kGateOutputs;
  const int slices = std::clamp(multiprocessors / groups(), 1, std::min(kGateMaxSlices, rounds));
  plan.slice = (rounds + slices - 1) / slices * kGateOutputs;
  plan.shared_bytes = plan.images * bytes;
  plan.grid_x = static_cast<unsigned>(groups());
  plan.grid_y = static_cast<unsigned>((gate.channels + plan.slice - 1) / plan.slice);
  return plan;
}

}  // namespace regnet_kernels
