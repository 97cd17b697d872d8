// Plans and runs the grouped 3x3 convolution under the emulator.
#pragma once

#include <device.h>

#include <string>

#include "gconv3x3.cuh"
#include "gconv3x3_float.cuh"
#include "gconv3x3_tiles.h"

namespace regnet_kernels {

enum class Dtype { float32, float16, bfloat16 };

struct Buffers {
  const void* x;
  size_t x_bytes;
  const void* weight;
  size_t weight_bytes;
  const float* bias;
  void* y;
  size_t y_bytes;
};

// Returns the first finding, or an empty string. Every element of y must be stored exactly once.
inline std::string emulate(const GroupedConv& conv, Dtype dtype, const Buffers& buffers, int multiprocessors,
                           emulator::Schedule schedule) {
  const GroupedConvPlan plan = plan_gconv3x3(conv, multiprocessors);
  if (plan.shared_bytes > kSharedLimit) return "the plan wants " + std::to_string(plan.shared_bytes) + " bytes of shared memory";
  std::vector<uint8_t> stores(buffers.y_bytes / 2);
  const auto region = [](const void* at, size_t bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(at);
    return emulator::Region{begin, begin + bytes};
  };
  std::vector<emulator::Region> regions = {region(buffers.x, buffers.x_bytes), region(buffers.weight, buffers.weight_bytes),
                                           region(buffers.bias, conv.channels * 4), region(buffers.y, buffers.y_bytes)};
  regions.back().writable = true;
  regions.back().stores = &stores;

  emulator::Findings findings;
  const auto run = [&](emulator::Dim3 grid, size_t shared_bytes, std::function<void()> kernel) {
    emulator::run(emulator::Launch{grid, kThreads, schedule, regions, findings, std::move(kernel)}, shared_bytes);
  };
  if (dtype == Dtype::float32) {
    const long long threads = 1ll * conv.images * plan.out_height * plan.out_width * (conv.channels / 8);
    run({static_cast<unsigned>((threads + kThreads - 1) / kThreads)}, 0, [&] {
      gconv3x3_float(static_cast<const float*>(buffers.x), static_cast<const float*>(buffers.weight), buffers.bias,
                     static_cast<float*>(buffers.y), plan);
    });
  } else {
    with_tiles(plan.tiles, [&](auto tiles) {
      const auto with_number = [&](auto number) {
        run({plan.grid_x, plan.grid_y}, plan.shared_bytes, [&] {
          gconv3x3<decltype(number), tiles()>(static_cast<const uint16_t*>(buffers.x),
                                              static_cast<const uint16_t*>(buffers.weight), buffers.bias,
                                              static_cast<uint16_t*>(buffers.y), plan);
        });
      };
      if (dtype == Dtype::float16) with_number(device::Half{});
      else with_number(device::BFloat16{});
    });
  }
  if (findings.any()) return findings.first();
  const size_t once = std::count(stores.begin(), stores.end(), 1);
  if (once != stores.size()) return std::to_string(stores.size() - once) + " half-words of the output were not stored exactly once";
  return "";
}

}  // namespace regnet_kernels
