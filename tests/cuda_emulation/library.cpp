// The emulated kernels as C functions, for ctypes.
#include "emulate.h"
#include "emulate_wgmma.h"

extern "C" int emulate_gconv3x3(const int* conv, int dtype, const void* x, size_t x_bytes, const void* weight,
                                size_t weight_bytes, const float* bias, void* y, size_t y_bytes, float* sums, size_t sums_bytes, int multiprocessors,
                                int order, int eager_copies, char* finding, size_t finding_bytes) {
  using namespace regnet_kernels;
  const GroupedConv problem{conv[0], conv[1], conv[2], conv[3], conv[4], conv[5], conv[6], sums_bytes != 0};
  const Buffers buffers{x, x_bytes, weight, weight_bytes, bias, y, y_bytes, sums, sums_bytes};
  const emulator::Schedule schedule{static_cast<emulator::Order>(order), eager_copies != 0};
  const std::string text = emulate(problem, static_cast<Dtype>(dtype), buffers, multiprocessors, schedule);
  std::snprintf(finding, finding_bytes, "%s", text.c_str());
  return text.empty() ? 0 : 1;
}

extern "C" int emulate_gconv3x3_wgmma(const int* conv, int dtype, const int* tile, const void* x, size_t x_bytes, const void* weight,
                                      size_t weight_bytes, const float* bias, void* y, size_t y_bytes, float* sums, size_t sums_bytes,
                                      int blocks, int order, int eager_copies, char* finding, size_t finding_bytes) {
  using namespace regnet_kernels;
  const GroupedConv problem{conv[0], conv[1], conv[2], conv[3], conv[4], conv[5], conv[6], sums_bytes != 0};
  const Buffers buffers{x, x_bytes, weight, weight_bytes, bias, y, y_bytes, sums, sums_bytes};
  const emulator::Schedule schedule{static_cast<emulator::Order>(order), eager_copies != 0};
  const WgmmaTile cut{tile[0], tile[1], tile[2], tile[3], tile[4]};
  const std::string text = emulate_wgmma(problem, static_cast<Dtype>(dtype), cut, buffers, blocks, schedule);
  std::snprintf(finding, finding_bytes, "%s", text.c_str());
  return text.empty() ? 0 : 1;
}

extern "C" int emulate_se_gate(const int* gate, int dtype, const float* sums, const void* w1, const float* b1, const void* w2,
                               const float* b2, void* out, int multiprocessors, int order, int eager_copies, char* finding, size_t finding_bytes) {
  using namespace regnet_kernels;
  const Gate problem{gate[0], gate[1], gate[2], gate[3], static_cast<float>(gate[4]), gate[5]};
  const emulator::Schedule schedule{static_cast<emulator::Order>(order), eager_copies != 0};
  const std::string text = emulate_gate(problem, static_cast<Dtype>(dtype), {sums, w1, b1, w2, b2, out}, multiprocessors, schedule);
  std::snprintf(finding, finding_bytes, "%s", text.c_str());
  return text.empty() ? 0 : 1;
}
