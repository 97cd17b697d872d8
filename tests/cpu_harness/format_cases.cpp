// float16 at the door, and packed programs that are not what they should be.
#include <cmath>
#include <stdexcept>

#include "check.h"
#include "cpu/network.h"
#include "cpu/ops.h"
#include "packed.h"

namespace {

// All 65536 values there and back; and between each two neighbours: the middle goes to the even one, all else to the nearer.
void halves(Report& report) {
  begin(report, "float16 conversions");
  int wrong = 0;
  for (uint32_t word = 0; word < 0x10000; word++) {
    const uint16_t half = static_cast<uint16_t>(word);
    const double value = get(&half, Scalar::f16, 0);
    const float there = half_to_float(half);
    uint16_t back;
    float_to_half(&there, &back, 1);
    if (std::isnan(value)) wrong += !std::isnan(there) || !std::isnan(get(&back, Scalar::f16, 0)) || (back ^ half) & 0x8000;
    else wrong += there != static_cast<float>(value) || back != half;
    if (std::isnan(value) || (half & 0x7fff) == 0x7c00) continue;
    const uint16_t next = half + 1;
    const double above = (next & 0x7fff) == 0x7c00 ? std::copysign(65536.0, value) : get(&next, Scalar::f16, 0);
    const float middle = static_cast<float>((value + above) / 2);
    for (const float direction : {0.0f, -1e30f, 1e30f}) {
      const float f = direction == 0 ? middle : std::nextafterf(middle, direction);
      const bool up = direction == 0 ? half & 1 : (direction > 0) == (above > value);
      uint16_t got;
      float_to_half(&f, &got, 1);
      wrong += got != (up ? next : half);
    }
  }
  if (wrong) fail(report, std::to_string(wrong) + " float16 conversions are wrong");
}

std::vector<Layer> small() {
  return {conv_layer(3, 8, 3, 2), block_layer(8, 16, 8, 8, {1, 4, true, Activation::relu, true}), block_layer(8, 24, 20, 24, {2, 0}), head_layer(20, 7)};
}

bool refused(const Network& network, std::string& why) {
  try {
    network.parse();
  } catch (const std::invalid_argument& error) {
    why = error.what();
    return true;
  }
  return false;
}

void refusals(Report& report, Random& random) {
  constexpr int64_t kHuge = int64_t{1} << 40;
  struct Change {
    int at;
    int64_t value;
  };
  const Change changes[] = {{0, 1}, {1, 3}, {1, 0}, {2 + 0, 3}, {2 + 1, 0}, {2 + 3, 9}, {2 + 4, kHuge}, {2 + 5, 0}, {2 + 7, 2}, {2 + 10, 3}, {2 + 12, kHuge},
                            {18 + 1, 9}, {18 + 2, kHuge}, {18 + 2, 17}, {18 + 3, 10}, {18 + 4, 5}, {18 + 5, 2}, {18 + 6, 0}, {18 + 7, 0}, {18 + 8, kHuge},
                            {18 + 11, kHuge}, {18 + 11, -32}, {18 + 13, 3}, {18 + 14, 2}, {34 + 13, 2}, {34 + 7, kHuge}, {50 + 3, 4000}, {50 + 0, 0}};
  for (const Type type : {Type::f32, Type::bf16})
    for (const Change& change : changes) {
      Network network = pack(random, type, small());
      const std::string label = "program with integer " + std::to_string(change.at) + " = " + std::to_string(change.value);
      begin(report, label);
      network.program[static_cast<size_t>(change.at)] = change.value;
      std::string why;
      if (!refused(network, why)) fail(report, label + " is accepted");
    }
  Network network = pack(random, Type::f32, small());
  for (int64_t* const count : {&network.weights_count, &network.params_count}) {
    begin(report, "a blob that lacks its last element");
    --*count;
    std::string why;
    if (!refused(network, why)) fail(report, "a blob that is too short is accepted");
    ++*count;
  }
}

// What the parser accepts must stay within the blobs and the buffers, whatever it says.
void mutations(Report& report, Random& random, int count) {
  begin(report, "mutated programs");
  int accepted = 0;
  for (int i = 0; i < count; i++) {
    const Type type = random.pick({Type::f32, Type::bf16});
    Network network = pack(random, type, small());
    for (int64_t changes = 1 + random.below(2); changes > 0; changes--) {
      int64_t& integer = network.program[2 + static_cast<size_t>(random.below(64))];
      integer = random.chance(0.5) ? integer + random.pick<int64_t>({-8, -2, -1, 1, 2, 8}) : random.pick<int64_t>({0, 1, 2, 3, 4, 8, 16, 17, 24, 64, 1 << 20, int64_t{1} << 40});
    }
    std::string why;
    if (refused(network, why)) continue;
    const std::vector<Step> steps = network.parse();
    int64_t side = 9;
    bool small_enough = true;
    for (const Step& s : steps) {
      small_enough = small_enough && s.kernel <= 64 && s.padding <= 16 && s.c_mid <= 4096 && s.c_out <= 4096;
      side = s.out_side(side);
      small_enough = small_enough && side <= 64;
    }
    if (!small_enough) continue;
    std::string text;
    for (const int64_t v : network.program) text += " " + std::to_string(v);
    std::fprintf(stderr, "accepted:%s\n", text.c_str());
    try {
      const Tensor x = random_tensor(random, type == Type::bf16 ? Scalar::bf16 : Scalar::f32, 2, steps[0].c_in, 9, 9, Layout::nchw);
      const Shape shape = network_output(steps, steps[0].c_in, 9, 9);
      Guarded out(static_cast<size_t>(2 * shape.c * shape.h * shape.w * type_bytes(type)));
      const PackedProgram program{network.program.data(), static_cast<int64_t>(network.program.size()), network.weights_count, network.params_count};
      NetworkCall(x.view, type, program, 2).run(network.weights.data(), network.params.as<const float>(), out.data(), make_fork(Forking::serial));
      accepted++;
    } catch (const std::invalid_argument&) {  // a map smaller than its kernel
    }
  }
  if (count >= 200 && accepted < 5) fail(report, "hardly any mutated program ran: the test tests nothing");
}

}  // namespace

void format_cases(Report& report, Random& random, int count) {
  halves(report);
  refusals(report, random);
  mutations(report, random, count);
  begin(report, "fma_peak");
  for (const Type type : {Type::f32, Type::bf16}) {
    const double peak = fma_peak(type, 0.002, 2, make_fork(Forking::threads));
    if (!(peak > 0 && peak < 1e6)) fail(report, "fma_peak says " + std::to_string(peak) + " GFLOP/s");
  }
}
