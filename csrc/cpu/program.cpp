#include "program.h"

#include <stdexcept>
#include <string>

namespace regnet_kernels::cpu {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument("regnet_kernels: bad packed network: " + what + "; pack it again with regnet_kernels.pack_network");
}

// With these, no product of sizes below leaves int64_t.
constexpr int64_t kLargestSize = 1 << 20, kLargestKernel = 1 << 10, kLargestOffset = int64_t{1} << 48;
constexpr int64_t kWeightsUnit = 32, kParamsUnit = 16;  // where sections begin

int64_t align(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Walks the sections of a blob in the order in which they were packed.
struct Cursor {
  int64_t at, unit;
  int64_t section(int64_t count) {
    const int64_t here = at;
    at = align(at + count, unit);
    return here;
  }
};

}  // namespace

std::vector<Step> parse_program(const int64_t* p, int64_t length, Type type, int64_t weights_count, int64_t params_count) {
  if (length < 2 || p[0] != kProgramVersion)
    fail("format version " + (length > 0 ? std::to_string(p[0]) : std::string("missing")) + ", this build reads version " + std::to_string(kProgramVersion));
  const int64_t count = p[1];
  if (count < 1 || length != 2 + count * kStepInts)
    fail(std::to_string(length) + " integers for " + std::to_string(count) + " steps");
  // elements of one group's panels: K is padded to pairs in bfloat16
  const auto panels = [](int64_t out, int64_t k, Type t) {
    return panel_lanes(out) * (t == Type::bf16 ? align(k, 2) : k);
  };
  std::vector<Step> steps;
  int64_t channels = 0;
  for (int64_t i = 0; i < count; i++) {
    const int64_t* q = p + 2 + i * kStepInts;
    const std::string where = "step " + std::to_string(i) + ": ";
    for (int j = 0; j < kStepInts; j++) {
      const bool is_offset = j == 11 || j == 12;
      if (q[j] < 0 || q[j] > (is_offset ? kLargestOffset : j == 4 ? kLargestKernel : kLargestSize))
        fail(where + "integer " + std::to_string(j) + " is " + std::to_string(q[j]));
    }
    if (q[11] % kWeightsUnit != 0 || q[12] % kParamsUnit != 0) fail(where + "unaligned offsets");
    Step s{};
    if (q[0] > 2) fail(where + "unknown kind " + std::to_string(q[0]));
    s.kind = static_cast<StepKind>(q[0]);
    s.c_in = q[1], s.c_mid = q[2], s.c_out = q[3], s.kernel = q[4], s.stride = q[5], s.padding = q[6];
    s.group_width = q[7], s.se_width = q[8], s.has_projection = q[9] != 0, s.has_winograd = q[13] != 0, s.has_pairs = q[14] != 0;
    if (q[10] > 2) fail(where + "unknown activation " + std::to_string(q[10]));
    s.activation = static_cast<Activation>(q[10]);
    if (s.c_in < 1) fail(where + "no input channels");
    if (i > 0 && s.c_in != channels)
      fail(where + "takes " + std::to_string(s.c_in) + " channels, the step before gives " + std::to_string(channels));
    if (i > 0 && steps.back().kind == StepKind::head) fail(where + "follows a head");
    Cursor w{q[11], kWeightsUnit}, f{q[12], kParamsUnit};
    if (s.kind == StepKind::conv) {
      if (s.c_out < 1 || s.kernel < 1 || s.stride < 1 || s.group_width < 1 || s.c_in % s.group_width != 0)
        fail(where + "conv sizes");
      const int64_t groups = s.c_in / s.group_width;
      if (s.c_out % groups != 0) fail(where + std::to_string(groups) + " groups do not divide " + std::to_string(s.c_out));
      s.conv_w = f.section(groups * panels(s.c_out / groups, s.kernel * s.kernel * s.group_width, Type::f32));
      s.conv_bias = f.section(s.c_out);
    } else if (s.kind == StepKind::block) {
      if (s.c_mid < 1 || s.c_out < 1 || s.stride < 1 || s.group_width < 1 || s.c_mid % s.group_width != 0 || s.kernel != 3 ||
          s.padding != 1)
        fail(where + "block sizes");
      if (type == Type::bf16 && (s.c_in % 2 != 0 || s.group_width % 2 != 0))
        fail(where + "bfloat16 needs even channel counts and group widths");
      if (!s.has_projection && (s.c_in != s.c_out || s.stride != 1)) fail(where + "an identity shortcut needs equal shapes");
      s.a = w.section(panels(s.c_mid, s.c_in, type));
      s.b = w.section(s.c_mid / s.group_width * panels(s.group_width, 9 * s.group_width, type));
      s.c = w.section(panels(s.c_out, s.c_mid + (s.has_projection ? s.c_in : 0), type));
      if (s.has_winograd) {
        if (q[13] != (type == Type::bf16 ? 2 : 1) || s.stride > (type == Type::bf16 ? 1 : 2) || s.group_width % 8 != 0)
          fail(where + "Winograd of another type, or not with stride 1 (in float32 also 2) and a group width of a multiple of 8");
        if (type == Type::bf16) s.u = w.section(16 * s.c_mid * s.group_width);
      }
      s.a_bias = f.section(s.c_mid);
      s.b_bias = f.section(s.c_mid);
      if (s.se_width > 0) {
        s.se_w1 = f.section(s.se_width * s.c_mid);
        s.se_b1 = f.section(s.se_width);
        s.se_w2t = f.section(s.se_width * s.c_mid);
        s.se_b2 = f.section(s.c_mid);
      }
      s.c_bias = f.section(s.c_out);
      if (s.has_pairs) {
        if (q[14] != 1 || type != Type::f32) fail(where + "pairs of another type than float32");
        s.a_pairs = f.section(s.c_mid + 1);
        s.c_pairs = f.section((s.c_out + 1) * (s.has_projection ? 2 : 1));
      }
    } else {
      if (type == Type::bf16 && s.c_in % 2 != 0) fail(where + "bfloat16 needs an even channel count");
      if (s.c_out > 0) {
        s.fc = w.section(panels(s.c_out, s.c_in, type));
        s.fc_bias = f.section(s.c_out);
      }
    }
    const int64_t w_end = w.at, f_end = f.at;
    if (w_end > q[11] && w_end > weights_count)
      fail(where + "needs " + std::to_string(w_end) + " weights, the blob has " + std::to_string(weights_count));
    if (f_end > q[12] && f_end > params_count)
      fail(where + "needs " + std::to_string(f_end) + " params, the blob has " + std::to_string(params_count));
    channels = s.kind == StepKind::head && s.c_out == 0 ? s.c_in : s.c_out;
    steps.push_back(s);
  }
  return steps;
}

}  // namespace regnet_kernels::cpu
