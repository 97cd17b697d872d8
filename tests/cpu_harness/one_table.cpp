// In place of csrc/cpu/isa.cpp: one table, REGNET_HARNESS_TABLE, whatever the CPU. For kernels that were compiled for wider
// vectors than this CPU's instructions hold.
#include "cpu/isa.h"

#include <cstdlib>

#define TABLE_OF_(name) kernels_##name
#define TABLE_OF(name) TABLE_OF_(name)

namespace regnet_kernels::cpu {

extern const Kernels TABLE_OF(REGNET_HARNESS_TABLE);

std::vector<const Kernels*> compiled_kernels() { return {&TABLE_OF(REGNET_HARNESS_TABLE)}; }
std::vector<const Kernels*> supported_kernels() { return compiled_kernels(); }
const Kernels& kernels() { return TABLE_OF(REGNET_HARNESS_TABLE); }
bool pairs_allowed() {
  const char* const env = std::getenv("REGNET_KERNELS_PAIRS");
  return env == nullptr || std::string(env) != "never";
}
std::string isa_json() { return "{}"; }

}  // namespace regnet_kernels::cpu
