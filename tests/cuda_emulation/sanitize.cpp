// The emulated kernels on buffers of exactly the right size, for a build with AddressSanitizer and UBSan.
// Random bits are weight enough: this looks at addresses, test_cuda_emulation.py at values.
#include "emulate.h"

using namespace regnet_kernels;

namespace {

std::unique_ptr<uint16_t[]> filled(size_t count) {
  std::unique_ptr<uint16_t[]> data(new uint16_t[count]);
  for (size_t i = 0; i < count; ++i) data[i] = static_cast<uint16_t>(i * 40503u >> 3 & 0x3FFF);
  return data;
}

std::string run(const GroupedConv& conv, Dtype dtype, emulator::Schedule schedule) {
  const GroupedConvPlan plan = plan_gconv3x3(conv, 1);
  const size_t words = dtype == Dtype::float32 ? 2 : 1;
  const size_t x = size_t(conv.images) * conv.height * conv.width * conv.channels * words;
  const size_t y = size_t(conv.images) * plan.out_height * plan.out_width * conv.channels * words;
  const size_t weight = size_t(conv.channels) * conv.group_width * 9 * words;
  const auto x_data = filled(x), weight_data = filled(weight), bias = filled(conv.channels * 2), y_data = filled(y);
  const size_t sums = conv.pool ? size_t(conv.images) * plan.tiles_down * plan.tiles_across * conv.channels : 0;
  std::unique_ptr<float[]> sums_data(new float[sums]);
  const Buffers buffers{x_data.get(), x * 2, weight_data.get(), weight * 2,
                        reinterpret_cast<const float*>(bias.get()), y_data.get(), y * 2,
                        sums_data.get(), sums * 4};
  return emulate(conv, dtype, buffers, 1, schedule);
}

}  // namespace

int main() {
  // images, height, width, channels, group_width, stride, activation
  const GroupedConv problems[] = {{2, 7, 9, 40, 8, 1, kRelu},   {1, 9, 7, 48, 24, 2, kSilu}, {3, 1, 1, 32, 16, 1, kNone},
                                  {1, 7, 7, 120, 120, 1, kRelu}, {2, 5, 6, 64, 32, 2, kRelu}};
  int order = 0;
  const Gate gates[] = {{3, 2, 48, 6, 9}, {9, 1, 50, 13, 4}, {3, 2, 48, 6, 9, true}, {9, 1, 50, 13, 4, true}};
  for (const Gate& gate : gates) {
    for (const Dtype dtype : {Dtype::float32, Dtype::float16}) {
      const size_t c = gate.channels, s = gate.squeeze, n = gate.images, words = dtype == Dtype::float32 ? 2 : 1;
      const auto sums = filled(n * gate.tiles * c * 2), w1 = filled(s * c * words), b1 = filled(s * 2), w2 = filled(s * c * words),
                 b2 = filled(c * 2), out = filled(n * c * 2);
      const auto floats = [](const std::unique_ptr<uint16_t[]>& data) { return reinterpret_cast<float*>(data.get()); };
      const GateBuffers buffers{floats(sums), w1.get(), floats(b1), w2.get(), floats(b2), out.get()};
      const std::string finding = emulate_gate(gate, dtype, buffers, 1, {});
      if (finding.empty()) continue;
      std::fprintf(stderr, "gate of %d channels: %s\n", gate.channels, finding.c_str());
      return 1;
    }
  }
  for (GroupedConv problem : problems) {
    for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16}) {
      problem.pool = dtype != Dtype::float32;
      const auto next = static_cast<emulator::Order>(order++ % static_cast<int>(emulator::Order::count));
      const std::string finding = run(problem, dtype, {next, order % 2 == 0});
      if (finding.empty()) continue;
      std::fprintf(stderr, "group_width %d, dtype %d: %s\n", problem.group_width, static_cast<int>(dtype), finding.c_str());
      return 1;
    }
  }
  std::puts("clean");
}
