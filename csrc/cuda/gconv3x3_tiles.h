#pragma once

#include <type_traits>

namespace regnet_kernels {

// Calls use(std::integral_constant<int, tiles>) for tiles in 1..8 and returns its result.
template <class Use>
auto with_tiles(int tiles, Use&& use) {
  switch (tiles) {
    case 1: return use(std::integral_constant<int, 1>{});
    case 2: return use(std::integral_constant<int, 2>{});
    case 3: return use(std::integral_constant<int, 3>{});
    case 4: return use(std::integral_constant<int, 4>{});
    case 5: return use(std::integral_constant<int, 5>{});
    case 6: return use(std::integral_constant<int, 6>{});
    case 7: return use(std::integral_constant<int, 7>{});
    default: return use(std::integral_constant<int, 8>{});
  }
}

}  // namespace regnet_kernels
