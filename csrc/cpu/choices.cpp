#include "choices.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace regnet_kernels::cpu {

Choices::Choices(const int64_t* ints, int64_t length) {
  constexpr int64_t row = kLayerInts + kChoiceInts;
  if (length % row != 0) throw std::invalid_argument("regnet_kernels: choices come in rows of " + std::to_string(row) + " integers");
  for (const int64_t* at = ints; at != ints + length; at += row) {
    LayerKey key;
    std::copy(at, at + kLayerInts, key.begin());
    const int64_t* c = at + kLayerInts;
    if (std::any_of(c, c + kChoiceInts, [](int64_t v) { return v < 0 || v > (1 << 20); }) || std::max({c[1], c[4], c[7], c[10]}) > 2)
      throw std::invalid_argument("regnet_kernels: a choice is out of range");
    table_[key] = {c[0], c[1], {c[2], c[3], c[4]}, {c[5], c[6], c[7]}, {c[8], c[9], c[10]}};
  }
}

const LayerChoice& Choices::of(const LayerKey& layer) const {
  static const LayerChoice none{};
  const auto found = table_.find(layer);
  return found == table_.end() ? none : found->second;
}

size_t Choices::Hash::operator()(const LayerKey& key) const {
  uint64_t hash = 14695981039346656037u;  // FNV-1a, a word at a time
  for (const int64_t v : key) hash = (hash ^ static_cast<uint64_t>(v)) * 1099511628211u;
  return hash ^ hash >> 32;
}

}  // namespace regnet_kernels::cpu
