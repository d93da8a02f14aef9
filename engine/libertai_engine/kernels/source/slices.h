// The slices of each kind of matrix; linear_slice chooses among them.
//
// In: what linear_slice is given. Out: what it gives.
#pragma once

#include "linear.h"

namespace kernels {

using Slice = void(const Matrix& matrix, const Input& input, int n, float* y, int64_t stride_y,
                   int thread, int threads);

Slice fp32_slice, bf16_slice, int8_slice, int4_slice;

}  // namespace kernels
