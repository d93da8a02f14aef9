// What Python calls: plain C functions.
//
// In: addresses of torch's memory. Out: results written there; 0, or a code of what is wrong.
#include "entry.h"
#include "linear.h"
#include "parallel.h"
#include "simd.h"

namespace {

using namespace kernels;

thread_local Workspace workspace;

constexpr int64_t kSmallWork = 1 << 16;  // multiplications that are not worth waking a thread
constexpr int64_t kChunk = 128;          // rows whose prepared form stays in the second-level cache

int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

// Rows of fp32 or bf16 outside, fp32 inside.
struct Rows {
  char* start;
  bool is_bf16;
  int64_t stride;  // elements

  char* row(int64_t index) const { return start + index * stride * (is_bf16 ? 2 : 4); }
};

// One call: x [n, cols] to y [n, rows], a chunk of rows at a time. Invariant: what one thread
// writes is read by others only after a barrier; x_ and y_ hold a chunk where x or y is bf16.
class Call {
 public:
  Call(const Matrix& matrix, Rows x, Rows y, int64_t n)
      : matrix_(matrix), from_(x), to_(y), n_(n), chunk_(at_most(n, kChunk)) {}

  bool get_memory() {
    const size_t prepared = input_bytes(chunk_, matrix_.cols);
    const size_t x_size = from_.is_bf16 ? padded(matrix_.cols) * 4 * chunk_ : 0;
    const size_t y_size = to_.is_bf16 ? padded(matrix_.rows) * 4 * chunk_ : 0;
    memory_ = workspace.at_least(prepared + x_size + y_size);
    if (!memory_) return false;
    x_ = reinterpret_cast<float*>(memory_ + prepared);
    y_ = reinterpret_cast<float*>(memory_ + prepared + x_size);
    return true;
  }

  void operator()(int thread, int threads) {
    for (int64_t first = 0; first < n_; first += chunk_) {
      if (first) barrier_.wait(threads);
      const int count = at_most(n_ - first, chunk_);
      const Input input = input_in(memory_, count, matrix_.cols);
      prepare(input, first, thread, threads);
      barrier_.wait(threads);
      multiply(input, first, thread, threads);
    }
  }

 private:
  static int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }

  void prepare(const Input& input, int64_t first, int thread, int threads) {
    const float* x = reinterpret_cast<const float*>(from_.row(first));
    int64_t stride = from_.stride;
    if (from_.is_bf16) {
      stride = padded(matrix_.cols);
      // NOTE: the rows that prepare_slice gives to the same thread, so no barrier is needed.
      const Share rows = share_of(input.n, thread, threads);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        const auto* wide = reinterpret_cast<const uint16_t*>(from_.row(first + row));
        for (int64_t col = 0; col < matrix_.cols; ++col)
          x_[row * stride + col] = from_bf16(wide[col]);
      }
      x = x_;
    }
    prepare_slice(input, matrix_.kind, x, stride, thread, threads);
  }

  void multiply(const Input& input, int64_t first, int thread, int threads) {
    if (!to_.is_bf16) {
      float* y = reinterpret_cast<float*>(to_.row(first));
      return linear_slice(matrix_, input, input.n, y, to_.stride, thread, threads);
    }
    const int64_t stride = padded(matrix_.rows);
    linear_slice(matrix_, input, input.n, y_, stride, thread, threads);
    const Share blocks = share_of(stride / kRowBlock, thread, threads);
    const int64_t begin = blocks.begin * kRowBlock;
    const int64_t count = at_most(blocks.end * kRowBlock, matrix_.rows) - begin;
    for (int64_t row = 0; row < input.n; ++row) {
      auto* y = reinterpret_cast<uint16_t*>(to_.row(first + row)) + begin;
      to_bf16s(y_ + row * stride + begin, static_cast<int>(count), y);
    }
  }

  const Matrix& matrix_;
  const Rows from_, to_;
  const int64_t n_, chunk_;
  char* memory_ = nullptr;
  float *x_ = nullptr, *y_ = nullptr;
  Barrier barrier_;
};

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

// y = x W^T + b. x [n, cols] and y [n, rows] are fp32 or bf16, rows stride_x and stride_y elements
// apart. Returns 0, or 1 where memory ran out.
EXPORTED int libertai_linear(const Matrix* matrix, void* x, int32_t x_is_bf16, int64_t stride_x,
                             int64_t n, void* y, int32_t y_is_bf16, int64_t stride_y,
                             int32_t threads) {
  Call call(*matrix, {static_cast<char*>(x), x_is_bf16 != 0, stride_x},
            {static_cast<char*>(y), y_is_bf16 != 0, stride_y}, n);
  if (!call.get_memory()) return 1;
  if (int64_t{matrix->rows} * matrix->cols * n <= kSmallWork) threads = 1;
  parallel(threads, call);
  return 0;
}
