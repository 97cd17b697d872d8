// gate = sigmoid(w2 relu(w1 mean + b1) + b2), mean = (sum over tiles of sums) / count: one launch, computed in float32; weights
// and gate in float32, float16 or bfloat16.
//
// A block owns up to 8 images and a slice of the channels. It keeps the images' means and hidden layer in shared memory,
// and computes all of the hidden layer for itself: that needs no second launch, and no block that waits for another. Where
// the weights of an output lie together, eight lanes share its dot product; where those of an input do (w2 transposed),
// eight lanes own 4 outputs each and the warp's four groups of eight share the inputs. Each weight that is loaded serves
// all images. Every order of summation is fixed: the same input gives the same bits on every run.
#pragma once

#include <device.h>

#include <type_traits>

#include "activation.cuh"
#include "se_gate_plan.h"

namespace regnet_kernels {

template <int COUNT>
struct alignas(COUNT * 4) Floats {
  float value[COUNT];
};

template <int COUNT>
struct alignas(COUNT * 2) Halves {
  uint16_t value[COUNT];
};

template <class Number>
using Stored = std::conditional_t<std::is_same_v<Number, device::Single>, float, uint16_t>;

// WIDTH neighbouring weights as float32; `from` is aligned to all of them.
template <class Number, int WIDTH>
__device__ __forceinline__ void load_weights(float (&weight)[WIDTH], const Stored<Number>* from) {
  if constexpr (std::is_same_v<Number, device::Single>) {
    const Floats<WIDTH> loaded = device::load_global(reinterpret_cast<const Floats<WIDTH>*>(from));
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) weight[i] = loaded.value[i];
  } else {
    const Halves<WIDTH> loaded = device::load_global(reinterpret_cast<const Halves<WIDTH>*>(from));
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) weight[i] = device::widen(Number{}, loaded.value[i]);
  }
}

// Rounds WIDTH neighbouring results and stores them; `to` is aligned to all of them.
template <class Number, int WIDTH>
__device__ __forceinline__ void store_results(Stored<Number>* to, const float (&result)[WIDTH]) {
  if constexpr (std::is_same_v<Number, device::Single>) {
    Floats<WIDTH> out;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) out.value[i] = result[i];
    device::store_global(reinterpret_cast<Floats<WIDTH>*>(to), out);
  } else {
    Halves<WIDTH> out;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) out.value[i] = static_cast<uint16_t>(device::pack(Number{}, result[i], 0.f));
    device::store_global(reinterpret_cast<Halves<WIDTH>*>(to), out);
  }
}

// sum[i] = row . input of image i, over `length` numbers, for the 8 lanes of a dot product; WIDTH numbers at a time, which
// divides length. All lanes of the warp take part.
template <class Number, int IMAGES, int WIDTH>
__device__ __forceinline__ void dot(float (&sum)[IMAGES], const Stored<Number>* row, device::Shared input, int pitch, int length) {
#pragma unroll
  for (int i = 0; i < IMAGES; ++i) sum[i] = 0.f;
#pragma unroll 4
  for (int k = threadIdx.x % kGateLanes * WIDTH; k < length; k += kGateLanes * WIDTH) {
    float weight[WIDTH];
    load_weights<Number>(weight, row + k);
#pragma unroll
    for (int i = 0; i < IMAGES; ++i) {
      float in[4];
      const device::Shared from = input + (i * pitch + k) * 4;
      if constexpr (WIDTH == 4) device::load_shared_quad(in, from);
      else in[0] = device::load_shared_float(from);
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) sum[i] += weight[j] * in[j];
    }
  }
#pragma unroll
  for (int i = 0; i < IMAGES; ++i) {
#pragma unroll
    for (int mask = 1; mask < kGateLanes; mask *= 2) sum[i] += device::shuffle_xor(sum[i], mask);
  }
}

// sum[i][j] = sum over the inputs s of image i of in[s] * columns[s * pitch + j], for the WIDTH columns from `columns` on; a
// quarter of the inputs each for the warp's four groups of lanes. All lanes of the warp take part.
template <class Number, int IMAGES, int WIDTH>
__device__ __forceinline__ void outer(float (&sum)[IMAGES][WIDTH], const Stored<Number>* columns, int pitch, device::Shared input,
                                      int input_pitch, int length) {
  constexpr int kGroups = 32 / kGateLanes;
#pragma unroll
  for (int i = 0; i < IMAGES; ++i) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) sum[i][j] = 0.f;
  }
#pragma unroll(IMAGES * (std::is_same_v<Number, device::Single> ? 2 : 1) > 8 ? 1 : 2)
  for (int s = threadIdx.x % 32 / kGateLanes; s < length; s += kGroups) {
    float weight[WIDTH];
    load_weights<Number>(weight, columns + static_cast<size_t>(s) * pitch);
#pragma unroll
    for (int i = 0; i < IMAGES; ++i) {
      const float in = device::load_shared_float(input + (i * input_pitch + s) * 4);
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) sum[i][j] += weight[j] * in;
    }
  }
#pragma unroll
  for (int i = 0; i < IMAGES; ++i) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
#pragma unroll
      for (int mask = kGateLanes; mask < 32; mask *= 2) sum[i][j] += device::shuffle_xor(sum[i][j], mask);
    }
  }
}

__device__ __forceinline__ float sigmoid(float value) { return 1.f / (1.f + expf(-value)); }

// The gate of the channels [first, end) from w2 (C, S): a dot product each. `gate` points to the block's first image.
template <class Number, int IMAGES>
__device__ __forceinline__ void excite(const GatePlan& plan, device::Shared hidden, const Stored<Number>* w2, const float* b2,
                                       Stored<Number>* gate, int images, int first, int end) {
  const Gate& size = plan.gate;
  const int own = threadIdx.x / kGateLanes, lane = threadIdx.x % kGateLanes;
  float sum[IMAGES];
  for (int start = first; start < end; start += kGateOutputs) {
    const int channel = min(start + own, end - 1);
    const Stored<Number>* const row = w2 + static_cast<size_t>(channel) * size.squeeze;
    if (size.squeeze % 4 == 0) dot<Number, IMAGES, 4>(sum, row, hidden, plan.hidden_pitch, size.squeeze);
    else dot<Number, IMAGES, 1>(sum, row, hidden, plan.hidden_pitch, size.squeeze);
    if (lane != 0 || start + own >= end) continue;
    const float bias = device::load_global(b2 + channel);
#pragma unroll
    for (int i = 0; i < IMAGES; ++i) {
      const float result[1] = {sigmoid(sum[i] + bias)};
      if (i < images) store_results<Number>(gate + static_cast<size_t>(i) * size.channels + channel, result);
    }
  }
}

// The same from w2 (S, C), WIDTH channels a lane, which divides their number.
template <class Number, int IMAGES, int WIDTH>
__device__ __forceinline__ void excite_transposed(const GatePlan& plan, device::Shared hidden, const Stored<Number>* w2, const float* b2,
                                                  Stored<Number>* gate, int images, int first, int end) {
  constexpr int kChannels = kGateLanes * WIDTH, kWarps = kGateThreads / 32;  // of a warp, of a block
  const Gate& size = plan.gate;
  const int lane = threadIdx.x % kGateLanes, group = threadIdx.x % 32 / kGateLanes;
  float sum[IMAGES][WIDTH];
  for (int start = first + threadIdx.x / 32 * kChannels; start < end; start += kWarps * kChannels) {
    const int channel = min(start + lane * WIDTH, end - WIDTH);  // surplus lanes repeat the last channels, so that warps stay whole
    outer<Number>(sum, w2 + channel, size.channels, hidden, plan.hidden_pitch, size.squeeze);
    if (start + lane * WIDTH >= end) continue;
    const Floats<WIDTH> bias = device::load_global(reinterpret_cast<const Floats<WIDTH>*>(b2 + channel));
#pragma unroll
    for (int i = 0; i < IMAGES; ++i) {
      if (i >= images || i % (32 / kGateLanes) != group) continue;
      float result[WIDTH];
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) result[j] = sigmoid(sum[i][j] + bias.value[j]);
      store_results<Number>(gate + static_cast<size_t>(i) * size.channels + channel, result);
    }
  }
}

// sums (N, tiles, C), w1 (S, C), b1 (S), w2 (C, S) or (S, C), b2 (C), gate (N, C): all contiguous and 16-byte aligned, but b1.
// Grid: plan.grid_x groups of images, plan.grid_y slices of channels; kGateThreads threads; plan.shared_bytes.
template <class Number, int IMAGES>
__global__ void __launch_bounds__(kGateThreads, 2)  // left alone, ptxas stops at 80 registers and spills on sm_90
    se_gate(const float* __restrict__ sums, const Stored<Number>* __restrict__ w1, const float* __restrict__ b1,
            const Stored<Number>* __restrict__ w2, const float* __restrict__ b2, Stored<Number>* __restrict__ gate,
            const GatePlan plan) {
  const Gate& size = plan.gate;
  const int thread = threadIdx.x, own = thread / kGateLanes, lane = thread % kGateLanes;
  const int first_image = blockIdx.x * IMAGES, images = min(IMAGES, size.images - first_image);
  const device::Shared means = device::dynamic_shared(), hidden = means + IMAGES * plan.mean_pitch * 4;

  for (int i = 0; i < IMAGES; ++i) {
    // Images that do not exist count as zeros, so that nothing is read that was never written.
    const float* const from = sums + static_cast<size_t>(first_image + i) * size.tiles * size.channels;
    for (int channel = thread; channel < size.channels; channel += kGateThreads) {
      float sum = 0.f;
#pragma unroll 4
      for (int tile = 0; tile < (i < images ? size.tiles : 0); ++tile) {
        sum += device::load_global(from + static_cast<size_t>(tile) * size.channels + channel);
      }
      device::store_shared_float(means + (i * plan.mean_pitch + channel) * 4, sum / size.count);
    }
  }
  device::barrier();  // the means are there

  // The last round's surplus dot products repeat the last one, so that warps stay whole.
  float sum[IMAGES];
  for (int start = 0; start < size.squeeze; start += kGateOutputs) {
    const int unit = min(start + own, size.squeeze - 1);
    const Stored<Number>* const row = w1 + static_cast<size_t>(unit) * size.channels;
    if (size.channels % 4 == 0) dot<Number, IMAGES, 4>(sum, row, means, plan.mean_pitch, size.channels);
    else dot<Number, IMAGES, 1>(sum, row, means, plan.mean_pitch, size.channels);
    if (lane != 0 || start + own >= size.squeeze) continue;
    const float bias = device::load_global(b1 + unit);
#pragma unroll
    for (int i = 0; i < IMAGES; ++i) {
      device::store_shared_float(hidden + (i * plan.hidden_pitch + unit) * 4, activate(sum[i] + bias, kRelu));
    }
  }
  device::barrier();  // the hidden layer is there

  const int first = blockIdx.y * plan.slice, end = min(first + plan.slice, size.channels);
  Stored<Number>* const out = gate + static_cast<size_t>(first_image) * size.channels;
  if (!size.transposed) excite<Number, IMAGES>(plan, hidden, w2, b2, out, images, first, end);
  else if (size.channels % 4 == 0) excite_transposed<Number, IMAGES, 4>(plan, hidden, w2, b2, out, images, first, end);
  else excite_transposed<Number, IMAGES, 1>(plan, hidden, w2, b2, out, images, first, end);
}

// Calls use(std::integral_constant<int, images>) for images 1, 2, 4 or 8 and returns its result.
template <class Use>
auto with_gate_images(int images, Use&& use) {
  switch (images) {
    case 1: return use(std::integral_constant<int, 1>{});
    case 2: return use(std::integral_constant<int, 2>{});
    case 4: return use(std::integral_constant<int, 4>{});
    default: return use(std::integral_constant<int, 8>{});
  }
}

}  // namespace regnet_kernels
