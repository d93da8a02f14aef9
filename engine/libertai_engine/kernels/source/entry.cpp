// What Python calls: plain C functions.
//
// In: addresses of torch's memory. Out: results written there; 0, or a code of what is wrong.
#include "entry.h"
#include "linear.h"
#include "parallel.h"
#include "simd.h"

namespace {

thread_local kernels::Workspace workspace;

constexpr int64_t kSmallWork = 1 << 16;  // multiplications that are not worth waking a thread

}  // namespace

// Which instructions the kernels were compiled for.
EXPORTED const char* libertai_instructions() {
  return ""
#if defined(KERNELS_AVX512)
         "AVX-512"
#if defined(KERNELS_VNNI)
         " VNNI"
#endif
#if defined(KERNELS_BF16)
         " BF16"
#endif
#elif defined(KERNELS_AVX2)
         "AVX2"
#else
         "plain C++"
#endif
      ;
}

// y = x W^T + b. x [n, cols] and y [n, rows] are fp32, rows stride_x and stride_y elements apart.
// Returns 0, or 1 where memory ran out.
EXPORTED int libertai_linear(const kernels::Matrix* matrix, const float* x, int64_t stride_x,
                             int32_t n, float* y, int64_t stride_y, int32_t threads) {
  char* memory = workspace.at_least(kernels::input_bytes(n, matrix->cols));
  if (!memory) return 1;
  const kernels::Input input = kernels::input_in(memory, n, matrix->cols);
  if (int64_t{matrix->rows} * matrix->cols * n <= kSmallWork) threads = 1;
  kernels::Barrier barrier;
  auto body = [&](int thread, int all) {
    kernels::prepare_slice(input, matrix->kind, x, stride_x, thread, all);
    barrier.wait(all);
    kernels::linear_slice(*matrix, input, n, y, stride_y, thread, all);
  };
  kernels::parallel(threads, body);
  return 0;
}


