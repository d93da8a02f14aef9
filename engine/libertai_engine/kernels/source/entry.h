// What functions that Python calls have in common.
//
// In: nothing. Out: the mark of a function that is visible outside, and memory between calls.
#pragma once

#include <cstddef>
#include <cstdlib>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace kernels {

// Memory that a calling thread keeps for its next call. Invariant: `memory` holds `size` bytes.
class Workspace {
 public:
  ~Workspace() { std::free(memory_); }

  char* at_least(size_t bytes) {
    if (bytes <= size_) return memory_;
    std::free(memory_);
    size_ = (bytes + 4095) / 4096 * 4096;
    memory_ = static_cast<char*>(std::aligned_alloc(64, size_));
    if (!memory_) size_ = 0;
    return memory_;
  }

 private:
  char* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace kernels
