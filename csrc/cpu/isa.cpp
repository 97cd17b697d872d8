#include "isa.h"

#include <cstdlib>
#include <stdexcept>

namespace regnet_kernels::cpu {

extern const Kernels kernels_baseline;
#if defined(REGNET_HAVE_AVX2)
extern const Kernels kernels_avx2;
#endif
#if defined(REGNET_HAVE_AVX512)
extern const Kernels kernels_avx512;
#endif
#if defined(REGNET_HAVE_AVX512_BF16)
extern const Kernels kernels_avx512_bf16;
#endif

namespace {

bool cpu_runs(const std::string& name) {
  if (name == "baseline") return true;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (name == "avx2") return avx2;
  if (name == "avx512") return avx512;
  if (name == "avx512_bf16") return avx512 && __builtin_cpu_supports("avx512bf16");
#endif
  return false;
}

std::string names(const std::vector<const Kernels*>& tables, const char* quote) {
  std::string out;
  for (const Kernels* k : tables) out += (out.empty() ? "" : ", ") + std::string(quote) + k->name + quote;
  return out;
}

struct Choice {
  const Kernels* table = nullptr;
  std::string forced, error;
  bool pairs = false;
};

// Has the CPU adders beside its multipliers?
bool adds_beside() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd") != 0;
#else
  return false;
#endif
}

const Choice& choice() {
  static const Choice chosen = [] {
    Choice c;
    const char* pairs = std::getenv("REGNET_KERNELS_PAIRS");
    const std::string wanted = pairs == nullptr ? "" : pairs;
    c.pairs = wanted.empty() ? adds_beside() : wanted == "always";
    if (!wanted.empty() && wanted != "always" && wanted != "never") {
      c.error = "REGNET_KERNELS_PAIRS=" + wanted + " is none of always, never";
      return c;
    }
    const auto supported = supported_kernels();
    const char* env = std::getenv("REGNET_KERNELS_ISA");
    if (env == nullptr || *env == '\0') {
      c.table = supported.back();
      return c;
    }
    c.forced = env;
    for (const Kernels* k : supported)
      if (c.forced == k->name) c.table = k;
    if (c.table == nullptr)
      c.error = "REGNET_KERNELS_ISA=" + c.forced + " cannot run on this machine; supported here: " + names(supported, "") +
                " (compiled in: " + names(compiled_kernels(), "") + ")";
    return c;
  }();
  return chosen;
}

std::string json_string(const std::string& s) {
  std::string out = "\"";
  for (char ch : s) {
    if (ch == '"' || ch == '\\') out += '\\';
    out += static_cast<unsigned char>(ch) < 0x20 ? ' ' : ch;
  }
  return out + "\"";
}

}  // namespace

std::vector<const Kernels*> compiled_kernels() {
  return {
      &kernels_baseline,
#if defined(REGNET_HAVE_AVX2)
      &kernels_avx2,
#endif
#if defined(REGNET_HAVE_AVX512)
      &kernels_avx512,
#endif
#if defined(REGNET_HAVE_AVX512_BF16)
      &kernels_avx512_bf16,
#endif
  };
}

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> out;
  for (const Kernels* k : compiled_kernels())
    if (cpu_runs(k->name)) out.push_back(k);
  return out;
}

const Kernels& kernels() {
  if (choice().table == nullptr) throw std::runtime_error(choice().error);
  return *choice().table;
}

bool pairs_allowed() { return choice().pairs; }

std::string isa_json() {
  const Choice& c = choice();
  return "{\"compiled\": [" + names(compiled_kernels(), "\"") + "], \"supported\": [" + names(supported_kernels(), "\"") +
         "], \"chosen\": " + (c.table ? json_string(c.table->name) : "null") +
         ", \"pairs\": " + (c.table && c.table->pairs && c.pairs ? "true" : "false") + ", \"forced\": " + (c.forced.empty() ? "null" : json_string(c.forced)) +
         ", \"error\": " + (c.error.empty() ? "null" : json_string(c.error)) + "}";
}

}  // namespace regnet_kernels::cpu
