// Plans and runs the grouped 3x3 convolution for Hopper under the emulator; apart from emulate.h, because it compiles for a while.
#pragma once

#include "emulate.h"

#include "gconv3x3_wgmma.cuh"

namespace regnet_kernels {

// As `emulate`. blocks: of each slice of the channels.
inline std::string emulate_wgmma(const GroupedConv& conv, Dtype dtype, const WgmmaTile& tile, const Buffers& buffers, int blocks,
                                 emulator::Schedule schedule) {
  WgmmaPlan plan;
  if (!plan_wgmma(plan, conv, tile)) return "the tile does not suit the convolution";
  std::vector<uint8_t> stores(buffers.y_bytes / 2), sums_stores(buffers.sums_bytes / 2);
  const std::vector<emulator::Region> regions = {
      region(buffers.x, buffers.x_bytes), region(buffers.weight, buffers.weight_bytes), region(buffers.bias, conv.channels * 4),
      region(buffers.y, buffers.y_bytes, &stores), region(buffers.sums, buffers.sums_bytes, &sums_stores)};
  emulator::Findings findings;
  blocks = std::min(blocks, plan.spatial);
  with_tiles(plan.tiles, [&](auto tiles) {
    const auto with_number = [&](auto number) {
      const auto kernel = [&] {
        const auto run = [&]<bool RELU, bool POOL>(std::bool_constant<RELU>, std::bool_constant<POOL>) {
          gconv3x3_wgmma<decltype(number), tiles(), RELU, POOL>(
              static_cast<const uint16_t*>(buffers.x), static_cast<const uint16_t*>(buffers.weight), buffers.bias,
              static_cast<uint16_t*>(buffers.y), buffers.sums, plan, blocks);
        };
        const auto pooled = [&](auto pool) {
          if (conv.activation == kRelu) run(std::true_type{}, pool);
          else run(std::false_type{}, pool);
        };
        if (conv.pool) pooled(std::true_type{});
        else pooled(std::false_type{});
      };
      emulator::run(emulator::Launch{{static_cast<unsigned>(plan.slices * blocks)}, kWgmmaThreads, schedule, regions, findings, kernel},
                    plan.shared_bytes);
    };
    if (dtype == Dtype::float16) with_number(device::Half{});
    else with_number(device::BFloat16{});
  });
  if (findings.any()) return findings.first();
  const std::string wrong = not_once(stores, "output");
  return wrong.empty() ? not_once(sums_stores, "sums") : wrong;
}

}  // namespace regnet_kernels
