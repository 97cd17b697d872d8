// regnet_kernels::_gconv3x3_cuda and _se_gate_cuda for CUDA tensors, on the LibTorch stable ABI. The schemas, the fake kernels
// and the packing live in regnet_kernels/backends/cuda.py.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <tuple>

#include "gconv3x3.h"
#include "gconv3x3_wgmma.h"
#include "se_gate.h"

// Weak: libtorch_cuda has it, and this library must load where libtorch_cuda is absent.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);

namespace {

using regnet_kernels::Dtype;
using regnet_kernels::GroupedConv;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Dtype dtype_of(const Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::Half: return Dtype::float16;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    default: STD_TORCH_CHECK(false, name, " must be float32, float16 or bfloat16");
  }
}

cudaStream_t current_stream(int32_t device) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch is built without CUDA; install one with CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS, "device ", device, " has no current stream");
  return static_cast<cudaStream_t>(stream);
}

bool aligned(const Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0; }

// Strides of channels_last memory; those of axes of size 1 say nothing.
bool is_channels_last(const Tensor& x) {
  int64_t expected = 1;
  for (const int axis : {1, 3, 2, 0}) {
    if (x.size(axis) != 1 && x.stride(axis) != expected) return false;
    expected *= x.size(axis);
  }
  return true;
}

// x as the kernel reads it: channels_last, 16-byte aligned; a copy only where it must be.
Tensor prepared(const Tensor& x) {
  if (is_channels_last(x) && aligned(x)) return x;
  Tensor copy = torch::stable::empty(x.sizes(), x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                     torch::headeronly::MemoryFormat::ChannelsLast);
  return torch::stable::copy_(copy, x);
}

struct Grouped {
  GroupedConv conv;
  Dtype dtype;
  Tensor in, y;
};

// The arguments of a grouped 3x3, checked, and an empty result.
Grouped grouped(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t stride, int64_t activation, bool pool) {
  STD_TORCH_CHECK(x.dim() == 4, "x must be (N, C, H, W), got ", x.dim(), " dimensions");
  const int64_t images = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  STD_TORCH_CHECK(channels > 0 && height > 0 && width > 0, "x must have channels and pixels");
  STD_TORCH_CHECK(images * height * width <= INT32_MAX, "x must have at most ", INT32_MAX, " pixels");
  STD_TORCH_CHECK(stride == 1 || stride == 2, "stride must be 1 or 2, got ", stride);
  STD_TORCH_CHECK(activation >= 0 && activation <= 2, "activation must be 0, 1 or 2, got ", activation);
  for (const Tensor* other : {&weight, &bias}) {
    STD_TORCH_CHECK(other->is_cuda() && other->get_device_index() == x.get_device_index(), "weight and bias must be on the device of x");
    STD_TORCH_CHECK(other->is_contiguous() && aligned(*other), "weight and bias must be contiguous and 16-byte aligned");
  }
  const Dtype dtype = dtype_of(x, "x");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "weight must have the dtype of x");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) == channels && weight.size(1) == 3 && weight.size(2) == 3,
                  "weight must be (", channels, ", 3, 3, group_width)");
  const int64_t group_width = weight.size(3);
  STD_TORCH_CHECK(group_width > 0 && group_width % 8 == 0 && channels % group_width == 0,
                  "group_width must be a multiple of 8 that divides ", channels, ", got ", group_width);
  STD_TORCH_CHECK(bias.scalar_type() == ScalarType::Float && bias.numel() == channels, "bias must be float32 of ", channels);
  STD_TORCH_CHECK(!pool || dtype != Dtype::float32, "the sums of a pool are for float16 and bfloat16, x is float32");

  const int64_t shape[] = {images, channels, (height - 1) / stride + 1, (width - 1) / stride + 1};
  Tensor y = torch::stable::empty({shape, 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                  torch::headeronly::MemoryFormat::ChannelsLast);
  const GroupedConv conv{static_cast<int>(images), static_cast<int>(height),      static_cast<int>(width),
                         static_cast<int>(channels), static_cast<int>(group_width), static_cast<int>(stride),
                         static_cast<int>(activation), pool};
  return {conv, dtype, prepared(x), y};
}

// An empty tensor for the tiles' sums (N, tiles, C) float32, of shape (0) without a pool.
Tensor empty_sums(const Grouped& of, int64_t tiles) {
  const int64_t shape[] = {of.conv.images, tiles, of.conv.channels}, none[] = {0};
  using Shape = torch::headeronly::IntHeaderOnlyArrayRef;
  return torch::stable::empty(of.conv.pool ? Shape{shape, 3} : Shape{none, 1}, ScalarType::Float, std::nullopt, of.y.device(), std::nullopt,
                              std::nullopt);
}

// Returns y and the tiles' sums.
std::tuple<Tensor, Tensor> gconv3x3(Tensor x, Tensor weight, Tensor bias, int64_t stride, int64_t activation, bool pool) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Grouped made = grouped(x, weight, bias, stride, activation, pool);
  regnet_kernels::GroupedConvPlan plan{};  // for the number of tiles, which depends on no card
  if (made.conv.images > 0) plan = regnet_kernels::plan_gconv3x3(made.conv, 1);
  Tensor sums = empty_sums(made, int64_t{plan.tiles_down} * plan.tiles_across);
  const cudaError_t error = regnet_kernels::launch_gconv3x3(
      made.conv, made.dtype, made.in.const_data_ptr(), weight.const_data_ptr(), bias.const_data_ptr<float>(), made.y.mutable_data_ptr(),
      sums.mutable_data_ptr<float>(), current_stream(x.get_device_index()));
  STD_TORCH_CHECK(error == cudaSuccess, "the kernel was not launched: ", cudaGetErrorString(error));
  return {made.y, sums};
}

// The same on compute capability 9.0, in tiles of height x width results of `together` images and `groups` groups.
std::tuple<Tensor, Tensor> gconv3x3_wgmma(Tensor x, Tensor weight, Tensor bias, int64_t stride, int64_t activation, bool pool,
                                          int64_t height, int64_t width, int64_t together, int64_t groups, int64_t stages) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Grouped made = grouped(x, weight, bias, stride, activation, pool);
  for (const int64_t number : {height, width, together, groups, stages}) {
    STD_TORCH_CHECK(number >= 1 && number <= 1024, "the numbers of a tile must lie in 1 to 1024, got ", number);
  }
  const regnet_kernels::WgmmaTile tile{static_cast<int>(height), static_cast<int>(width), static_cast<int>(together),
                                       static_cast<int>(groups), static_cast<int>(stages)};
  const int64_t down = (made.y.size(2) + height - 1) / height, across = (made.y.size(3) + width - 1) / width;
  Tensor sums = empty_sums(made, down * across);
  const cudaError_t error = regnet_kernels::launch_gconv3x3_wgmma(
      made.conv, made.dtype, tile, made.in.const_data_ptr(), weight.const_data_ptr(), bias.const_data_ptr<float>(),
      made.y.mutable_data_ptr(), sums.mutable_data_ptr<float>(), current_stream(x.get_device_index()));
  STD_TORCH_CHECK(error == cudaSuccess, "the kernel was not launched: ", cudaGetErrorString(error));
  return {made.y, sums};
}

// w2: (C, S), or (S, C) if `transposed`. The gate has the dtype of w1.
Tensor se_gate(Tensor sums, Tensor w1, Tensor b1, Tensor w2, Tensor b2, int64_t count, bool transposed) {
  STD_TORCH_CHECK(sums.dim() == 3, "sums must be (N, tiles, C), got ", sums.dim(), " dimensions");
  STD_TORCH_CHECK(w1.dim() == 2 && count >= 1, "w1 must be (S, C), count at least 1");
  const int64_t images = sums.size(0), tiles = sums.size(1), channels = sums.size(2), squeeze = w1.size(0);
  STD_TORCH_CHECK(images <= INT32_MAX / 8 && tiles <= INT32_MAX, "sums must have fewer images and tiles");
  STD_TORCH_CHECK(w1.size(1) == channels && w2.dim() == 2 && w2.size(transposed) == channels && w2.size(!transposed) == squeeze &&
                      b1.numel() == squeeze && b2.numel() == channels,
                  "expected w1 (S, C), b1 (S), w2 ", transposed ? "(S, C)" : "(C, S)", ", b2 (C) with C = ", channels, ", S = ", squeeze);
  STD_TORCH_CHECK(regnet_kernels::gate_fits(channels, squeeze), channels, " channels and ", squeeze,
                  " hidden units do not fit into shared memory; use backend='triton' or 'eager'");
  for (const Tensor* part : {&sums, &w1, &b1, &w2, &b2}) {
    STD_TORCH_CHECK(part->is_cuda() && part->get_device_index() == sums.get_device_index(), "all tensors must be on the device of sums");
    STD_TORCH_CHECK(part->is_contiguous(), "all tensors must be contiguous");
    STD_TORCH_CHECK(part == &w1 || part == &w2 || part->scalar_type() == ScalarType::Float, "sums, b1 and b2 must be float32");
  }
  STD_TORCH_CHECK(w1.scalar_type() == w2.scalar_type(), "w1 and w2 must have one dtype");
  STD_TORCH_CHECK(aligned(w1) && aligned(w2) && aligned(b2), "w1, w2 and b2 must be 16-byte aligned");

  const torch::stable::accelerator::DeviceGuard guard(sums.get_device_index());
  const int64_t shape[] = {images, channels};
  Tensor gate = torch::stable::empty({shape, 2}, w1.scalar_type(), std::nullopt, sums.device(), std::nullopt, std::nullopt);
  const regnet_kernels::Gate size{static_cast<int>(images), static_cast<int>(tiles), static_cast<int>(channels),
                                  static_cast<int>(squeeze), static_cast<float>(count), transposed};
  const cudaError_t error = regnet_kernels::launch_se_gate(
      size, dtype_of(w1, "w1"), sums.const_data_ptr<float>(), w1.const_data_ptr(), b1.const_data_ptr<float>(), w2.const_data_ptr(),
      b2.const_data_ptr<float>(), gate.mutable_data_ptr(), current_stream(sums.get_device_index()));
  STD_TORCH_CHECK(error == cudaSuccess, "the kernel was not launched: ", cudaGetErrorString(error));
  return gate;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(regnet_kernels, CUDA, m) {
  m.impl("_gconv3x3_cuda", TORCH_BOX(&gconv3x3));
  m.impl("_gconv3x3_wgmma", TORCH_BOX(&gconv3x3_wgmma));
  m.impl("_se_gate_cuda", TORCH_BOX(&se_gate));
}
