// harness [--seed N] [--random N] [conv|winograd|squeeze|network|format ...], or harness --tables: the names of those that run
// Checks the kernels of the table in use against double precision. Names each case on stderr; the last line on stdout sums up.
#include <cinttypes>
#include <exception>
#include <random>

#include "check.h"
#include "cpu/isa.h"

int main(int argc, char** argv) {
  uint64_t seed = std::random_device{}();
  int random_cases = 40;
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    if (argument == "--seed" && i + 1 < argc) seed = std::strtoull(argv[++i], nullptr, 10);
    else if (argument == "--random" && i + 1 < argc) random_cases = std::atoi(argv[++i]);
    else wanted.push_back(argument);
  }
  if (wanted == std::vector<std::string>{"--tables"}) {
    for (const Kernels* k : supported_kernels()) std::printf("%s\n", k->name);
    return 0;
  }
  const auto wants = [&](const char* part) {
    for (const std::string& w : wanted)
      if (w == part) return true;
    return wanted.empty();
  };
  Report report;
  Random random(seed);
  try {
    std::printf("table %s, seed %" PRIu64 "\n", kernels().name, seed);
    std::fflush(stdout);
    if (wants("conv")) conv_cases(report, random, random_cases);
    if (wants("winograd")) winograd_cases(report, random), winograd_bf16_cases(report, random);
    if (wants("squeeze")) squeeze_cases(report, random);
    if (wants("network")) network_cases(report, random, random_cases / 2);
    if (wants("format")) format_cases(report, random, 5 * random_cases);
  } catch (const std::exception& error) {
    fail(report, error.what());
  }
  std::printf("%s: %d cases, %d failures; largest error %.2f of its bound, networks %.1f sigma, rms %.2f\n", report.failures ? "FAILED" : "ok",
              report.cases, report.failures, report.worst_bound, report.worst_sigma, report.worst_rms);
  return report.failures ? 1 : 0;
}
