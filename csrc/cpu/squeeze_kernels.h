// Squeeze-and-excite, pooling, scaling. Included by kernels.cpp alone.
// pooled = sums over slots / count, then rows [squeeze0, squeeze1) of relu(w1 pooled + b1), for all images: each row of
// w1 is read once for all of them.
void se_reduce_fc1(const SqueezeExcite& s, int squeeze0, int squeeze1, float* pooled) {
  const int64_t channels = s.channels;
  for (int n = 0; n < s.images; n++) {
    const float* sums = s.sums + n * s.slots * channels;
    float* out = pooled + n * channels;
    int64_t c = 0;
    for (; c + VL <= channels; c += VL) {
      vf total{};
      for (int64_t slot = 0; slot < s.slots; slot++) total += load(sums + slot * channels + c);
      store(out + c, total * broadcast(s.inverse_count));
    }
    for (; c < channels; c++) {
      float total = 0;
      for (int64_t slot = 0; slot < s.slots; slot++) total += sums[slot * channels + c];
      out[c] = total * s.inverse_count;
    }
  }
  for (int row = squeeze0; row < squeeze1; row++) {
    const float* w = s.w1 + row * channels;
    for (int n = 0; n < s.images; n++) {
      const float* x = pooled + n * channels;
      vf a{}, b{};
      int64_t c = 0;
      for (; c + 2 * VL <= channels; c += 2 * VL) {
        a += load(w + c) * load(x + c);
        b += load(w + c + VL) * load(x + c + VL);
      }
      float sum = horizontal_sum(a + b);
      for (; c < channels; c++) sum += w[c] * x[c];
      sum += s.b1[row];
      s.hidden[(int64_t)n * s.squeeze + row] = sum < 0 ? 0 : sum;
    }
  }
}

// Vectors [c, c + COUNT * VL) of sigmoid(w2 hidden + b2).
template <int COUNT>
REGNET_INLINE void gate_vectors(const SqueezeExcite& s, const float* hidden, int c, float* gate) {
  vf a[COUNT];
#pragma GCC unroll 4
  for (int v = 0; v < COUNT; v++) a[v] = load(s.b2 + c + v * VL);
  for (int row = 0; row < s.squeeze; row++) {
    const vf h = broadcast(hidden[row]);
    const float* w = s.w2t + (int64_t)row * s.channels + c;
#pragma GCC unroll 4
    for (int v = 0; v < COUNT; v++) a[v] += h * load(w + v * VL);
  }
#pragma GCC unroll 4
  for (int v = 0; v < COUNT; v++) store(gate + c + v * VL, sigmoid(a[v]));
}

// Channels [first, last) of y = x * gate, of rows of `channels`.
template <class T>
void scale_pixels_typed(const T* x, const float* gate, T* y, int64_t pixels, int64_t channels, int64_t first, int64_t last) {
  for (int64_t p = 0; p < pixels; p++) {
    int64_t c = first;
    for (; c + VL <= last; c += VL) store_lanes<VL>(y + p * channels + c, load_lanes<VL>(x + p * channels + c) * load(gate + c));
    for (; c < last; c++) put(y + p * channels + c, to_float(x[p * channels + c]) * gate[c]);
  }
}

// gate[:, channel0:channel1] = sigmoid(w2 hidden + b2), and these channels of the map times it
void se_fc2(const SqueezeExcite& s, int channel0, int channel1) {
  for (int n = 0; n < s.images; n++) {
    const float* hidden = s.hidden + (int64_t)n * s.squeeze;
    float* gate = s.gate + (int64_t)n * s.channels;
    int c = channel0;
    for (; c + 4 * VL <= channel1; c += 4 * VL) gate_vectors<4>(s, hidden, c, gate);
    for (; c + 2 * VL <= channel1; c += 2 * VL) gate_vectors<2>(s, hidden, c, gate);
    for (; c + VL <= channel1; c += VL) gate_vectors<1>(s, hidden, c, gate);
    if (c < channel1) {
      const int lanes = channel1 - c;
      float out[VL] = {};
      for (int i = 0; i < lanes; i++) out[i] = s.b2[c + i];
      for (int row = 0; row < s.squeeze; row++) {
        const float* w = s.w2t + (int64_t)row * s.channels + c;
        for (int i = 0; i < lanes; i++) out[i] += hidden[row] * w[i];
      }
      store(out, sigmoid(load(out)));
      for (int i = 0; i < lanes; i++) gate[c + i] = out[i];
    }
    const int64_t map = n * s.pixels * s.channels;
    if (s.map && s.type == Type::f32)
      scale_pixels_typed((float*)s.map + map, gate, (float*)s.map + map, s.pixels, s.channels, channel0, channel1);
    else if (s.map)
      scale_pixels_typed((uint16_t*)s.map + map, gate, (uint16_t*)s.map + map, s.pixels, s.channels, channel0, channel1);
  }
}

template <class T>
void sum_pixels_typed(const T* x, int64_t pixels, int64_t channels, float* sums) {
  int64_t c = 0;
  for (; c + 4 * VL <= channels; c += 4 * VL) {
    vf a[4] = {};
    for (int64_t p = 0; p < pixels; p++)
      for (int v = 0; v < 4; v++) a[v] += load_lanes<VL>(x + p * channels + c + v * VL);
    for (int v = 0; v < 4; v++) store(sums + c + v * VL, a[v]);
  }
  for (; c < channels; c++) {
    float sum = 0;
    for (int64_t p = 0; p < pixels; p++) sum += to_float(x[p * channels + c]);
    sums[c] = sum;
  }
}
void sum_pixels(Type type, const void* x, int64_t pixels, int64_t channels, float* sums) {
  if (type == Type::f32) sum_pixels_typed((const float*)x, pixels, channels, sums);
  else sum_pixels_typed((const uint16_t*)x, pixels, channels, sums);
}

void scale_pixels(Type type, const void* x, const float* gate, void* y, int64_t pixels, int64_t channels) {
  if (type == Type::f32) scale_pixels_typed((const float*)x, gate, (float*)y, pixels, channels, 0, channels);
  else scale_pixels_typed((const uint16_t*)x, gate, (uint16_t*)y, pixels, channels, 0, channels);
}

void store_scaled(Type type, const float* sums, float scale, void* y, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    if (type == Type::f32) ((float*)y)[i] = sums[i] * scale;
    else ((uint16_t*)y)[i] = float_to_bf16(sums[i] * scale);
  }
}
