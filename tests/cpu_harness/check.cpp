#include "check.h"

#include <cmath>
#include <cstdio>
#include <functional>
#include <thread>

void begin(Report& report, const std::string& label) {
  report.cases++;
  std::fprintf(stderr, "%s\n", label.c_str());
}

void fail(Report& report, const std::string& what) {
  report.failures++;
  std::fprintf(stderr, "FAIL: %s\n", what.c_str());
}

void compare_bound(Report& report, const std::string& what, const void* got, Scalar type, const Doubles& want, const Doubles& bound) {
  size_t wrong = 0;
  char first[160] = "";
  for (size_t i = 0; i < want.size(); i++) {
    const double value = get(got, type, static_cast<int64_t>(i)), error = std::fabs(value - want[i]);
    if (error <= bound[i]) {
      if (error > 0) report.worst_bound = std::max(report.worst_bound, error / bound[i]);
    } else if (wrong++ == 0) {
      std::snprintf(first, sizeof first, "element %zu is %.9g, expected %.9g +- %.3g", i, value, want[i], bound[i]);
    }
  }
  if (wrong) fail(report, what + ": " + std::to_string(wrong) + " of " + std::to_string(want.size()) + " wrong; " + first);
}

void compare_sigma(Report& report, const std::string& what, const void* got, Scalar type, const Doubles& want, const Doubles& sigma) {
  double largest = 0, squares = 0;
  size_t where = 0;
  for (size_t i = 0; i < want.size(); i++) {
    const double error = std::fabs(get(got, type, static_cast<int64_t>(i)) - want[i]) / sigma[i];
    squares += error * error;
    if (!(error <= largest)) largest = error, where = i;
    if (std::isnan(error)) break;
  }
  const double rms = want.empty() ? 0 : std::sqrt(squares / static_cast<double>(want.size()));
  if (largest <= kMaxSigma && rms <= kMaxRms) {
    report.worst_sigma = std::max(report.worst_sigma, largest);
    report.worst_rms = std::max(report.worst_rms, rms);
    return;
  }
  char line[240];
  std::snprintf(line, sizeof line, ": largest error %.3g sigma (at most %g), rms %.3g (at most %g); element %zu of %zu is %.9g, expected %.9g, sigma %.3g",
                largest, kMaxSigma, rms, kMaxRms, where, want.size(), get(got, type, static_cast<int64_t>(where)), want[where], sigma[where]);
  fail(report, what + line);
}

Fork make_fork(Forking forking) {
  return [forking](int workers, const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < workers; i++) {
      const int worker = forking == Forking::reversed ? workers - 1 - i : i;
      if (forking == Forking::threads) threads.emplace_back([&body, worker] { body(worker); });
      else body(worker);
    }
    for (std::thread& thread : threads) thread.join();
  };
}

const char* name(Forking forking) {
  return forking == Forking::threads ? "threads" : forking == Forking::serial ? "serial" : "reversed";
}
const char* name(Activation a) { return a == Activation::none ? "none" : a == Activation::relu ? "relu" : "silu"; }
