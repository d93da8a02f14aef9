// Threads of one native call.
//
// In: a number of threads and a body. Out: the body run once by each of them, at the same time.
// The threads are those of torch's own OpenMP pool, so a process has one pool. GOMP_parallel is
// what `#pragma omp parallel` of GCC calls; calling it by name also works with compilers whose
// pragma would bring another OpenMP runtime with it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#include <sched.h>

extern "C" {
void GOMP_parallel(void (*body)(void*), void* data, unsigned num_threads, unsigned flags);
int omp_get_thread_num(void);
int omp_get_num_threads(void);
int omp_get_num_procs(void);
}

namespace kernels {

// All threads of a region wait for each other. Spins, because a wait lasts microseconds and
// OMP_WAIT_POLICY may be PASSIVE; yields after twenty of them, because a core may be taken.
// Invariant: `arrived_` is below the number of threads, and `round_` grows by one for each meeting.
class Barrier {
 public:
  // `threads` is the number that the region really has.
  void wait(int threads) {
    if (threads == 1) return;
    const uint32_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int turn = 0; round_.load(std::memory_order_acquire) == round; ++turn) {
      if (turn < kSpins) {
        pause();
      } else {
        sched_yield();
      }
    }
  }

 private:
  static constexpr int kSpins = 1024;

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#endif
  }

  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

// Runs body(thread, threads) on each of `threads` threads, but on no more than there are processors
// for: those without one would keep the others waiting at every barrier. NOTE: OpenMP may give
// fewer than asked for; the body is told the true number, and tells it to each Barrier.
template <typename Body>
void parallel(int threads, Body& body) {
  if (threads > 1) threads = std::min(threads, omp_get_num_procs());
  if (threads <= 1) {
    body(0, 1);
    return;
  }
  auto run = [](void* data) {
    (*static_cast<Body*>(data))(omp_get_thread_num(), omp_get_num_threads());
  };
  GOMP_parallel(run, &body, static_cast<unsigned>(threads), 0);
}

// Units [begin, end) of `count` that belong to a thread.
struct Share {
  int64_t begin, end;
};

inline Share share_of(int64_t count, int thread, int threads) {
  return {count * thread / threads, count * (thread + 1) / threads};
}

}  // namespace kernels
