// What a decoder does with single rows between its matrices: norm, rotation, activation.
//
// In: fp32 rows. Out: fp32 rows, changed in place or written behind.
#pragma once

#include <cmath>

#include "vector.h"

namespace kernels::decode {

enum Activation : int32_t { SILU = 0, GELU_TANH = 1, GELU = 2 };

// y = gain * x / sqrt(mean(x^2) + epsilon); y may be x. (Zhang and Sennrich, 2019)
inline void rms_norm(const float* x, const float* gain, float epsilon, int n, float* y) {
  const float factor = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + epsilon);
  for (int i = 0; i < n; ++i) y[i] = x[i] * factor * gain[i];
}

// Entry i and entry i + half are a pair that turns by angle i. (Su et al., 2021)
inline void rotate(float* head, const float* cosines, const float* sines, int half) {
  for (int i = 0; i < half; ++i) {
    const float first = head[i], second = head[i + half];
    head[i] = first * cosines[i] - second * sines[i];
    head[i + half] = second * cosines[i] + first * sines[i];
  }
}

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp_of<kLanes>(-x)); }

inline Floats activate(int kind, Floats x) {
  if (kind == SILU) return x * sigmoid(x);
  if (kind == GELU_TANH) {  // 0.5 (1 + tanh(z)) = sigmoid(2 z)
    return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
  }
  Floats y;
  for (int i = 0; i < kLanes; ++i) y[i] = x[i] * 0.5f * (1.0f + std::erf(x[i] * 0.70710678f));
  return y;
}

// gate = activation(gate) * up
inline void gate_rows(int kind, float* gate, const float* up, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) store(gate + i, activate(kind, load(gate + i)) * load(up + i));
  for (; i < n; ++i) gate[i] = activate(kind, Floats{} + gate[i])[0] * up[i];
}

}  // namespace kernels::decode
