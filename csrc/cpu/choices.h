// What the heuristics decide for a layer, decided from outside: a table of choices by the exact layer, which a tuner measures
// (regnet_kernels/tuning/cpu) and plans look at when they are made.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>

namespace regnet_kernels::cpu {

// type, kind, c_in, c_mid, c_out, kernel, stride, padding, group_width, se_width, has_projection, has_winograd (of kernels.h and
// program.h), then h and w of the input, images of the batch, workers.
inline constexpr int kLayerInts = 16;
using LayerKey = std::array<int64_t, kLayerInts>;

// How a convolution is cut into tasks: output pixels a task (Winograd: tiles), and runs of panels (Winograd: of groups). block 0: the
// heuristics cut it. pairs: of a block's 1x1, 1: not by pairs, 2: by pairs, where it can go so; 0: the heuristics decide.
struct CutChoice {
  int64_t block, splits, pairs;
};

struct LayerChoice {
  int64_t group;     // images that go through the layer together; 0: the heuristics' number
  int64_t winograd;  // 1: direct, 2: Winograd, where its weights are packed; 0: the heuristics decide
  CutChoice a, b, c; // a is a stem's or a head's only convolution
};
inline constexpr int kChoiceInts = 2 + 3 * 3;

class Choices {
 public:
  // count * (kLayerInts + kChoiceInts) integers: layers and their choices. Throws std::invalid_argument. Every choice gives right results:
  // the plan takes the nearest that the kernels can do.
  Choices(const int64_t* ints, int64_t length);
  const LayerChoice& of(const LayerKey& layer) const;

 private:
  struct Hash {
    size_t operator()(const LayerKey& key) const;
  };
  std::unordered_map<LayerKey, LayerChoice, Hash> table_;
};

// What a plan did with a layer: the choice that would do the same, beside what there is to choose from.
struct CutMade {
  int64_t block, splits, pixels, units;  // pixels (tiles) that are cut into blocks, and panel units (groups) that are split
  int64_t pairs = 0;                     // as in CutChoice; 0 where it cannot go by pairs
};
struct LayerMade {
  LayerKey key;
  int64_t group, winograd;
  CutMade a, b, c;
};
inline constexpr int kMadeInts = kLayerInts + 2 + 3 * 5;

}  // namespace regnet_kernels::cpu
