// Which instruction sets this build has, which of them this CPU can run, and the one in use.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace regnet_kernels::cpu {

std::vector<const Kernels*> compiled_kernels();   // narrowest first
std::vector<const Kernels*> supported_kernels();  // those of the above that this CPU runs

// The table in use: the widest supported one, or the one that REGNET_KERNELS_ISA names (read once, at the first call).
// Throws std::runtime_error, listing the supported names, when the variable names one that this machine or build lacks.
const Kernels& kernels();

// May 1x1's go by pairs (pair_kernels.h)? Where the CPU has adders beside its multipliers (AMD's), or as REGNET_KERNELS_PAIRS says, always or
// never, read with the other one; `kernels` throws for anything else.
bool pairs_allowed();

// {"compiled": [...], "supported": [...], "chosen": "..."|null, "pairs": true|false, "forced": "..."|null, "error": "..."|null}
std::string isa_json();

}  // namespace regnet_kernels::cpu
