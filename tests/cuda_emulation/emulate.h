// Plans and runs the grouped 3x3 convolution and the squeeze-excite's gate under the emulator.
#pragma once

#include <device.h>

#include <string>

#include "dtype.h"
#include "gconv3x3.cuh"
#include "gconv3x3_float.cuh"
#include "gconv3x3_tiles.h"
#include "se_gate.cuh"

namespace regnet_kernels {

struct Buffers {
  const void* x;
  size_t x_bytes;
  const void* weight;
  size_t weight_bytes;
  const float* bias;
  void* y;
  size_t y_bytes;
  float* sums;
  size_t sums_bytes;  // 0 without conv.pool
};

// `stores`: counts the stores to it; null: read-only.
inline emulator::Region region(const void* at, size_t bytes, std::vector<uint8_t>* stores = nullptr) {
  const auto begin = reinterpret_cast<uintptr_t>(at);
  return {begin, begin + bytes, stores != nullptr, stores};
}

// What is wrong with the number of stores to a result, or an empty string.
inline std::string not_once(const std::vector<uint8_t>& stores, const char* what) {
  const size_t once = std::count(stores.begin(), stores.end(), 1);
  if (once == stores.size()) return "";
  return std::to_string(stores.size() - once) + " half-words of the " + what + " were not stored exactly once";
}

// Returns the first finding, or an empty string. Every element of y and of the sums must be stored exactly once.
inline std::string emulate(const GroupedConv& conv, Dtype dtype, const Buffers& buffers, int multiprocessors,
                           emulator::Schedule schedule) {
  const GroupedConvPlan plan = plan_gconv3x3(conv, multiprocessors);
  if (plan.shared_bytes > kSharedLimit) return "the plan wants " + std::to_string(plan.shared_bytes) + " bytes of shared memory";
  std::vector<uint8_t> stores(buffers.y_bytes / 2), sums_stores(buffers.sums_bytes / 2);
  std::vector<emulator::Region> regions = {region(buffers.x, buffers.x_bytes), region(buffers.weight, buffers.weight_bytes),
                                           region(buffers.bias, conv.channels * 4), region(buffers.y, buffers.y_bytes, &stores), region(buffers.sums, buffers.sums_bytes, &sums_stores)};

  emulator::Findings findings;
  const auto run = [&](emulator::Dim3 grid, size_t shared_bytes, std::function<void()> kernel) {
    emulator::run(emulator::Launch{grid, kThreads, schedule, regions, findings, std::move(kernel)}, shared_bytes);
  };
  if (dtype == Dtype::float32) {
    run({static_cast<unsigned>(float_blocks(plan))}, 0, [&] {
      gconv3x3_float(static_cast<const float*>(buffers.x), static_cast<const float*>(buffers.weight), buffers.bias,
                     static_cast<float*>(buffers.y), plan);
    });
  } else {
    with_tiles(plan.tiles, [&](auto tiles) {
      const auto with_number = [&](auto number) {
        run({plan.grid_x, plan.grid_y}, plan.shared_bytes, [&] {
          gconv3x3<decltype(number), tiles()>(static_cast<const uint16_t*>(buffers.x),
                                              static_cast<const uint16_t*>(buffers.weight), buffers.bias,
                                              static_cast<uint16_t*>(buffers.y), buffers.sums, plan);
        });
      };
      if (dtype == Dtype::float16) with_number(device::Half{});
      else with_number(device::BFloat16{});
    });
  }
  if (findings.any()) return findings.first();
  const std::string wrong = not_once(stores, "output");
  return wrong.empty() ? not_once(sums_stores, "sums") : wrong;
}

struct GateBuffers {
  const float* sums;
  const void* w1;
  const float* b1;
  const void* w2;
  const float* b2;
  void* out;
};

// Calls use(number) with the tag of a dtype.
template <class Use>
auto with_number(Dtype dtype, Use&& use) {
  switch (dtype) {
    case Dtype::float16: return use(device::Half{});
    case Dtype::bfloat16: return use(device::BFloat16{});
    default: return use(device::Single{});
  }
}

inline std::string emulate_gate(const Gate& gate, Dtype dtype, const GateBuffers& buffers, int multiprocessors,
                                emulator::Schedule schedule) {
  const GatePlan plan = plan_se_gate(gate, multiprocessors);
  if (plan.shared_bytes > kGateShared) return "the plan wants " + std::to_string(plan.shared_bytes) + " bytes of shared memory";
  const size_t n = gate.images, t = gate.tiles, c = gate.channels, s = gate.squeeze, bytes = dtype == Dtype::float32 ? 4 : 2;
  std::vector<uint8_t> stores(n * c * bytes / 2);
  const std::vector<emulator::Region> regions = {region(buffers.sums, n * t * c * 4), region(buffers.w1, s * c * bytes), region(buffers.b1, s * 4),
                                                 region(buffers.w2, c * s * bytes), region(buffers.b2, c * 4),
                                                 region(buffers.out, n * c * bytes, &stores)};
  emulator::Findings findings;
  with_number(dtype, [&](auto number) {
    using Weight = Stored<decltype(number)>;
    with_gate_images(plan.images, [&](auto images) {
      const auto kernel = [&] {
        se_gate<decltype(number), images()>(buffers.sums, static_cast<const Weight*>(buffers.w1), buffers.b1,
                                            static_cast<const Weight*>(buffers.w2), buffers.b2,
                                            static_cast<Weight*>(buffers.out), plan);
      };
      emulator::run(emulator::Launch{{plan.grid_x, plan.grid_y}, kGateThreads, schedule, regions, findings, kernel}, plan.shared_bytes);
    });
  });
  return findings.any() ? findings.first() : not_once(stores, "gate");
}

}  // namespace regnet_kernels
