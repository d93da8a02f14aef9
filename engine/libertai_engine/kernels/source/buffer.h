// Memory of one owner.
//
// In: how many bytes are needed. Out: at least so many, or std::bad_alloc.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace kernels::decode {

// 64-byte aligned memory that only grows. Its content does not survive growth.
class Buffer {
 public:
  ~Buffer() { std::free(memory_); }

  void need(size_t bytes) {
    if (bytes <= size_) return;
    std::free(memory_);
    size_ = (bytes + 4095) / 4096 * 4096;
    memory_ = std::aligned_alloc(64, size_);
    if (memory_) return;
    size_ = 0;
    throw std::bad_alloc();
  }

  void* get() const { return memory_; }
  float* floats() const { return static_cast<float*>(memory_); }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace kernels::decode
