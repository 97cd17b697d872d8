// Comparing, counting and the ways to run the workers.
#pragma once
#include <string>

#include "cpu/executor.h"
#include "data.h"
#include "reference.h"

struct Report {
  int cases = 0, failures = 0;
  double worst_bound = 0;   // largest error in units of its bound, of single ops
  double worst_sigma = 0, worst_rms = 0;  // of networks, in units of the error's standard deviation
};

// Names the case that comes (on stderr, so that a crash is told by the last line) and counts it.
void begin(Report& report, const std::string& label);
void fail(Report& report, const std::string& what);

// Every |got - want| must be within `bound`, a proven bound on the rounding error.
void compare_bound(Report& report, const std::string& what, const void* got, Scalar type, const Doubles& want, const Doubles& bound);

// The errors must look like rounding errors of standard deviation `sigma`: none beyond kMaxSigma, root mean square of
// error / sigma at most kMaxRms.
inline constexpr double kMaxSigma = 10, kMaxRms = 1.5;
void compare_sigma(Report& report, const std::string& what, const void* got, Scalar type, const Doubles& want, const Doubles& sigma);

// threads: one std::thread a worker. serial, reversed: one after the other in this thread, as at::parallel_for may do it.
enum class Forking { threads, serial, reversed };
Fork make_fork(Forking forking);
const char* name(Forking forking);
const char* name(Activation a);

// Higham's gamma_n: the relative error of n roundings in float32.
inline double gamma_of(double n) { return n * kUnit / (1 - n * kUnit); }

// Error of an activation's own arithmetic in float32, and how much it may enlarge the error of its input. SiLU: exp to 5
// roundings (a degree-6 polynomial on |r| <= ln 2 / 2 and its rounding), one sum, one division, one product; slope <= 1.1.
inline double activation_error(double y, Activation a) { return a == Activation::silu ? 10 * kUnit * (y < 0 ? -y : y) + 1e-35 : 0; }
inline double activation_slope(Activation a) { return a == Activation::silu ? 1.1 : 1; }

void conv_cases(Report& report, Random& random, int random_cases);
void winograd_cases(Report& report, Random& random);
void winograd_bf16_cases(Report& report, Random& random);
void squeeze_cases(Report& report, Random& random);
void network_cases(Report& report, Random& random, int random_cases);
void format_cases(Report& report, Random& random, int mutations);
