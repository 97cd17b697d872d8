// The CPU kernels as implementations of the ops that regnet_kernels/ops defines, on the LibTorch stable ABI: this file
// checks arguments, allocates outputs, and hands raw pointers to csrc/cpu.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <pthread.h>

#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <vector>

#include "cpu/isa.h"
#include "cpu/network.h"
#include "cpu/ops.h"
#include "cpu/plan_cache.h"

namespace {

using namespace regnet_kernels::cpu;
using torch::stable::Tensor;
using torch::headeronly::ScalarType;

// A process that fork() made has none of its parent's threads, but OpenMP goes on waiting for them. There, a call starts threads
// of its own and joins them, and needs no one to know whether the parent had used its pool.
std::atomic<bool> is_forked{false};
[[maybe_unused]] const int watch_forks = pthread_atfork(nullptr, nullptr, [] { is_forked = true; });

void fork_own_threads(int workers, const std::function<void(int)>& body) {
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(workers));
  try {
    for (int worker = 1; worker < workers; worker++) others.emplace_back([&body, worker] { body(worker); });
  } catch (const std::system_error&) {  // no more threads to be had
  }
  body(0);
  for (int worker = static_cast<int>(others.size()) + 1; worker < workers; worker++) body(worker);
  for (std::thread& other : others) other.join();
}

// at::parallel_for as a fork of the executor's workers. It may run the bodies on fewer threads, or in this one (inside
// another parallel region): the executor does not mind.
void torch_fork(int workers, const std::function<void(int)>& body) {
  if (is_forked && workers > 1) return fork_own_threads(workers, body);
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; worker++) body(static_cast<int>(worker));
  });
}
int threads() { return static_cast<int>(torch::stable::get_num_threads()); }

Scalar scalar_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Scalar::f32;
    case ScalarType::Half: return Scalar::f16;
    case ScalarType::BFloat16: return Scalar::bf16;
    default: break;
  }
  throw std::invalid_argument(std::string("regnet_kernels: ") + name + " must be float32, float16 or bfloat16 on the CPU backend");
}

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument("regnet_kernels: " + message); }
void check(bool ok, const char* message) {
  if (!ok) fail(message);
}
void check(bool ok, const std::string& message) { check(ok, message.c_str()); }

std::string shape(const Tensor& t) {
  std::string out = "(";
  for (int64_t i = 0; i < t.dim(); i++) out += (i ? ", " : "") + std::to_string(t.size(i));
  return out + ")";
}

TensorView view(const Tensor& t, const char* name) {
  if (t.dim() != 4) fail(std::string(name) + " must be (N, C, H, W), got shape " + shape(t));
  return {scalar_of(t, name), t.const_data_ptr(), t.size(0), t.size(1), t.size(2), t.size(3), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

const float* floats(const Tensor& t, const char* name, std::initializer_list<int64_t> sizes) {
  bool same = t.dim() == static_cast<int64_t>(sizes.size()) && t.scalar_type() == ScalarType::Float && t.is_contiguous();
  int64_t i = 0;
  std::string expected;
  for (int64_t s : sizes) {
    same = same && i < t.dim() && t.size(i) == s;
    expected += (i++ ? ", " : "") + std::to_string(s);
  }
  check(same, std::string(name) + " must be contiguous float32 of shape (" + expected + "), got shape " + shape(t));
  return static_cast<const float*>(t.const_data_ptr());
}

Tensor new_nhwc(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  const int64_t sizes[] = {n, c, h, w};
  return torch::stable::empty({sizes, 4}, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              torch::headeronly::MemoryFormat::ChannelsLast);
}
Tensor new_matrix(const Tensor& like, int64_t rows, int64_t columns, ScalarType type) {
  const int64_t sizes[] = {rows, columns};
  return torch::stable::empty({sizes, 2}, type, std::nullopt, like.device());
}
Tensor new_empty_floats(const Tensor& like) {
  const int64_t sizes[] = {0};
  return torch::stable::empty({sizes, 1}, ScalarType::Float, std::nullopt, like.device());
}

NetworkCall prepare(const Tensor& x, const Tensor& weights, const Tensor& params, const int64_t* program, int64_t length) {
  const TensorView in = view(x, "x");
  const ScalarType packed = weights.scalar_type();
  check(packed == ScalarType::Float || packed == ScalarType::BFloat16, "weights must be float32 or bfloat16");
  check((in.scalar == Scalar::bf16) == (packed == ScalarType::BFloat16),
        "x and the packed weights do not go together: bfloat16 needs weights packed as bfloat16, float32 and float16 need float32");
  check(weights.dim() == 1 && weights.is_contiguous() && params.dim() == 1 && params.is_contiguous() && params.scalar_type() == ScalarType::Float,
        "weights and params must be contiguous and 1-D, params float32");
  return {in, packed == ScalarType::Float ? Type::f32 : Type::bf16, {program, length, weights.numel(), params.numel()}, threads()};
}

Tensor new_output(const NetworkCall& call, const Tensor& x) {
  const Shape& s = call.output();
  return s.pooled ? new_matrix(x, x.size(0), s.c, x.scalar_type()) : new_nhwc(x, x.size(0), s.c, s.h, s.w);
}

Tensor run(const Tensor& x, const Tensor& weights, const Tensor& params, const int64_t* program, int64_t length) {
  NetworkCall call = prepare(x, weights, params, program, length);
  Tensor y = new_output(call, x);
  call.run(weights.const_data_ptr(), static_cast<const float*>(params.const_data_ptr()), y.mutable_data_ptr(), torch_fork);
  return y;
}

Tensor network(Tensor x, Tensor weights, Tensor params, std::vector<int64_t> program) {
  return run(x, weights, params, program.data(), static_cast<int64_t>(program.size()));
}

// The same with the program as a tensor, which costs nothing to hand over; a list of 400 integers costs some 10 us.
Tensor network_eager(Tensor x, Tensor weights, Tensor params, Tensor program) {
  check(program.dim() == 1 && program.is_contiguous() && program.scalar_type() == ScalarType::Long, "program must be contiguous, 1-D and int64");
  return run(x, weights, params, static_cast<const int64_t*>(program.const_data_ptr()), program.numel());
}

// (phases, 3 + repeats) float64: step, kind of work, nominal multiply-adds, then the seconds of each repetition.
Tensor profile(Tensor x, Tensor weights, Tensor params, std::vector<int64_t> program, int64_t repeats) {
  check(repeats >= 1, "repeats must be at least 1");
  NetworkCall call = prepare(x, weights, params, program.data(), static_cast<int64_t>(program.size()));
  Tensor y = new_output(call, x);
  const auto times = call.profile(weights.const_data_ptr(), static_cast<const float*>(params.const_data_ptr()), y.mutable_data_ptr(), torch_fork,
                                  static_cast<int>(repeats));
  Tensor table = new_matrix(x, static_cast<int64_t>(times.size()), 3 + repeats, ScalarType::Double);
  double* row = static_cast<double*>(table.mutable_data_ptr());
  for (const PhaseTime& t : times) {
    *row++ = t.step, *row++ = static_cast<double>(t.work), *row++ = t.macs;
    for (double s : t.seconds) *row++ = s;
  }
  return table;
}

// (steps, kMadeInts) int64: of each step what identifies it and what was chosen for it (choices.h).
Tensor layers(Tensor x, Tensor weights, Tensor params, std::vector<int64_t> program) {
  const NetworkCall call = prepare(x, weights, params, program.data(), static_cast<int64_t>(program.size()));
  Tensor table = new_matrix(x, static_cast<int64_t>(call.layers().size()), kMadeInts, ScalarType::Long);
  int64_t* at = static_cast<int64_t*>(table.mutable_data_ptr());
  for (const LayerMade& layer : call.layers()) {
    for (const int64_t v : layer.key) *at++ = v;
    *at++ = layer.group, *at++ = layer.winograd;
    for (const CutMade* cut : {&layer.a, &layer.b, &layer.c})
      for (const int64_t v : {cut->block, cut->splits, cut->pixels, cut->units, cut->pairs}) *at++ = v;
  }
  return table;
}

void set_cpu_choices(std::vector<int64_t> rows) { set_choices(std::make_shared<Choices>(rows.data(), static_cast<int64_t>(rows.size()))); }

std::tuple<Tensor, Tensor> conv_bn_act(Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> residual, std::optional<Tensor> gate,
                                       int64_t stride, int64_t padding, int64_t groups, int64_t activation, bool pool) {
  ConvArgs a{};
  a.x = view(x, "x");
  const TensorView w = view(weight, "weight");
  check(w.scalar == a.x.scalar, "x and weight must have the same dtype");
  check(stride >= 1 && padding >= 0 && groups >= 1, "stride and groups must be at least 1, padding at least 0");
  check(activation >= 0 && activation <= 2, "activation must be 0 (none), 1 (relu) or 2 (silu)");
  check(w.c * groups == a.x.c && w.n % groups == 0 && w.h >= 1 && w.w >= 1,
        "weight " + shape(weight) + " with groups=" + std::to_string(groups) + " does not fit x " + shape(x));
  check(a.x.h + 2 * padding >= w.h && a.x.w + 2 * padding >= w.w, "x " + shape(x) + " is smaller than the kernel " + shape(weight));
  a.weight = {w.scalar, w.data, w.n, w.c, w.h, w.w, w.stride_n, w.stride_c, w.stride_h, w.stride_w};
  a.out_h = (a.x.h + 2 * padding - w.h) / stride + 1;
  a.out_w = (a.x.w + 2 * padding - w.w) / stride + 1;
  a.bias = bias ? floats(*bias, "bias", {w.n}) : nullptr;
  a.gate = gate ? floats(*gate, "gate", {a.x.n, a.x.c}) : nullptr;
  TensorView r{};
  if (residual) {
    r = view(*residual, "residual");
    check(r.scalar == a.x.scalar && r.n == a.x.n && r.c == w.n && r.h == a.out_h && r.w == a.out_w,
          "residual " + shape(*residual) + " must have x's dtype and the output's shape");
    a.residual = &r;
  }
  a.stride = stride, a.padding = padding, a.groups = groups;
  a.activation = static_cast<Activation>(activation);
  Tensor y = new_nhwc(x, a.x.n, w.n, a.out_h, a.out_w);
  Tensor sums = pool ? new_matrix(x, a.x.n, w.n, ScalarType::Float) : new_empty_floats(x);
  a.out = y.mutable_data_ptr();
  a.sums = pool ? static_cast<float*>(sums.mutable_data_ptr()) : nullptr;
  run_conv(a, threads(), torch_fork);
  return {y, sums};
}

SeWeights se_weights(const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, int64_t channels) {
  check(w1.dim() == 2, "w1 must be (S, C), got shape " + shape(w1));
  const int64_t squeeze = w1.size(0);
  check(squeeze >= 1, "the squeeze width must be at least 1");
  return {floats(w1, "w1", {squeeze, channels}), floats(b1, "b1", {squeeze}), floats(w2, "w2", {channels, squeeze}),
          floats(b2, "b2", {channels}), channels, squeeze};
}

Tensor se_gate(Tensor sums, Tensor w1, Tensor b1, Tensor w2, Tensor b2, int64_t count) {
  check(sums.dim() == 2, "sums must be (N, C), got shape " + shape(sums));
  check(count >= 1, "count must be at least 1");
  const int64_t n = sums.size(0), c = sums.size(1);
  const SeWeights w = se_weights(w1, b1, w2, b2, c);
  Tensor gate = new_matrix(sums, n, c, ScalarType::Float);
  run_se_gate(floats(sums, "sums", {n, c}), n, 1.0f / static_cast<float>(count), w, static_cast<float*>(gate.mutable_data_ptr()), threads(), torch_fork);
  return gate;
}

Tensor squeeze_excite(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2) {
  const TensorView in = view(x, "x");
  const SeWeights w = se_weights(w1, b1, w2, b2, in.c);
  Tensor y = new_nhwc(x, in.n, in.c, in.h, in.w);
  run_squeeze_excite(in, w, y.mutable_data_ptr(), threads(), torch_fork);
  return y;
}

std::string cpu_info() { return isa_json(); }
double measured_fma_peak(double seconds, int64_t workers, bool bfloat16) {
  return fma_peak(bfloat16 ? Type::bf16 : Type::f32, seconds, static_cast<int>(workers < 1 ? 1 : workers), torch_fork);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(regnet_kernels, CPU, m) {
  m.impl("network", TORCH_BOX(&network));
  m.impl("conv_bn_act", TORCH_BOX(&conv_bn_act));
  m.impl("squeeze_excite", TORCH_BOX(&squeeze_excite));
  m.impl("_network_eager", TORCH_BOX(&network_eager));
  m.impl("_profile_network", TORCH_BOX(&profile));
  m.impl("_network_layers", TORCH_BOX(&layers));
  m.impl("se_gate", TORCH_BOX(&se_gate));
}
STABLE_TORCH_LIBRARY_FRAGMENT(regnet_kernels, m) {
  m.def("_cpu_info() -> str");
  m.def("_set_cpu_choices(int[] rows) -> ()");
  m.def("_network_layers(Tensor x, Tensor weights, Tensor params, int[] program) -> Tensor");
  m.def("_fma_peak(float seconds, int threads, bool bfloat16=False) -> float");
  m.def("_network_eager(Tensor x, Tensor weights, Tensor params, Tensor program) -> Tensor");
  m.def("_profile_network(Tensor x, Tensor weights, Tensor params, int[] program, int repeats) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(regnet_kernels, CompositeExplicitAutograd, m) {
  m.impl("_cpu_info", TORCH_BOX(&cpu_info));
  m.impl("_set_cpu_choices", TORCH_BOX(&set_cpu_choices));
  m.impl("_fma_peak", TORCH_BOX(&measured_fma_peak));
}
