// The thread pool: late workers never hold a caller up, and a forked child starts threads of its own.
#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>

namespace mlxlm {

namespace {

constexpr uint32_t kClosed = 0xffffffff;
constexpr int kMostThreads = 256;
constexpr int kSpins = 4000;  // some tens of microseconds: the gap between two operations of a decode step

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int cgroup_cores() {
  long quota = 0, period = 0;
  if (FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    int read = std::fscanf(f, "%ld %ld", &quota, &period);
    std::fclose(f);
    if (read == 2 && quota > 0 && period > 0) return int((quota + period - 1) / period);
    return 0;
  }
  FILE* q = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
  FILE* p = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
  bool both = q && p && std::fscanf(q, "%ld", &quota) == 1 && std::fscanf(p, "%ld", &period) == 1;
  if (q) std::fclose(q);
  if (p) std::fclose(p);
  return both && quota > 0 && period > 0 ? int((quota + period - 1) / period) : 0;
}

int usable_cores() {
  if (const char* said = std::getenv("MLXLM_THREADS")) {
    int n = std::atoi(said);
    if (n >= 1) return n < kMostThreads ? n : kMostThreads;
  }
  cpu_set_t set;
  int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int(std::thread::hardware_concurrency());
  int limit = cgroup_cores();
  if (limit > 0 && limit < n) n = limit;
  return n < 1 ? 1 : n > 64 ? 64 : n;
}

// One job at a time. `ticket` is its number (upper half) and the next task to take (lower half). A worker reads the
// ticket, then the job, then takes a task by compare-and-swap: success means the job it read is still the open one,
// since a caller closes the ticket before it changes the job.
class Pool {
 public:
  Pool() : size_(usable_cores()) {
    for (int i = 1; i < size_; i++) std::thread([this] { work(); }).detach();
  }
  int size() const { return size_; }

  void run(int count, void (*task)(void*, int), void* context) {
    if (size_ == 1 || count <= 1 || busy_.exchange(true, std::memory_order_acquire)) {
      for (int i = 0; i < count; i++) task(context, i);
      return;
    }
    uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(job << 32 | kClosed, std::memory_order_seq_cst);
    task_.store(task, std::memory_order_seq_cst);
    context_.store(context, std::memory_order_seq_cst);
    count_.store(count, std::memory_order_seq_cst);
    finished_.store(0, std::memory_order_relaxed);
    ticket_.store(job << 32, std::memory_order_seq_cst);
    wake_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) futex(FUTEX_WAKE_PRIVATE, count - 1);
    take_tasks();
    for (int spins = 0; finished_.load(std::memory_order_acquire) < count; spins++) {
      if (spins < kSpins) pause_briefly();
      else sched_yield();
    }
    busy_.store(false, std::memory_order_release);
  }

 private:
  void futex(int operation, uint32_t value) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&wake_), operation, value, nullptr, nullptr, 0);
  }

  void take_tasks() {
    for (;;) {
      uint64_t ticket = ticket_.load(std::memory_order_seq_cst);
      auto task = task_.load(std::memory_order_seq_cst);
      auto context = context_.load(std::memory_order_seq_cst);
      int count = count_.load(std::memory_order_seq_cst);
      uint32_t next = uint32_t(ticket);
      if (next == kClosed || int(next) >= count) return;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_seq_cst)) continue;
      task(context, int(next));
      finished_.fetch_add(1, std::memory_order_acq_rel);
    }
  }

  void work() {
    uint32_t seen = 0;
    for (;;) {
      for (int spins = 0; wake_.load(std::memory_order_acquire) == seen && spins < kSpins; spins++) pause_briefly();
      if (wake_.load(std::memory_order_acquire) == seen) {
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        futex(FUTEX_WAIT_PRIVATE, seen);
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      }
      seen = wake_.load(std::memory_order_acquire);
      take_tasks();
    }
  }

  const int size_;
  alignas(64) std::atomic<uint64_t> ticket_{kClosed};
  alignas(64) std::atomic<uint32_t> wake_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<int> finished_{0};
  alignas(64) std::atomic<bool> busy_{false};
  std::atomic<void (*)(void*, int)> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int> count_{0};
};

std::atomic<Pool*> pool{nullptr};

// A pool lives as long as the process: its threads may still be waiting when static objects go away.
Pool& the_pool() {
  Pool* p = pool.load(std::memory_order_acquire);
  if (p) return *p;
  static std::atomic_flag making = ATOMIC_FLAG_INIT;
  while (making.test_and_set(std::memory_order_acquire)) sched_yield();
  p = pool.load(std::memory_order_acquire);
  if (!p) {
    static bool hooked = false;
    // The child has none of the parent's threads; it forgets the pool and makes a new one on first use.
    if (!hooked) pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
    hooked = true;
    p = new Pool;
    pool.store(p, std::memory_order_release);
  }
  making.clear(std::memory_order_release);
  return *p;
}

struct Buffer {
  void* data = nullptr;
  size_t size = 0;
  ~Buffer() { std::free(data); }
};

}  // namespace

void parallel(int count, void (*task)(void*, int), void* context) { the_pool().run(count, task, context); }

void parallel_runs(int count, void (*task)(void*, int), void* context) {
  struct alignas(64) Run {
    std::atomic<int> next;
    int end;
  };
  struct Job {
    Run runs[kMostThreads];
    int size;
    void (*task)(void*, int);
    void* context;
  } job;
  job.size = pool_size(), job.task = task, job.context = context;
  for (int r = 0; r < job.size; r++) {
    job.runs[r].next.store(int(int64_t(count) * r / job.size), std::memory_order_relaxed);
    job.runs[r].end = int(int64_t(count) * (r + 1) / job.size);
  }
  parallel(job.size, [](void* given, int first) {
    Job& job = *(Job*)given;
    for (int r = 0; r < job.size; r++) {
      Run& run = job.runs[(first + r) % job.size];
      for (int i; (i = run.next.fetch_add(1, std::memory_order_relaxed)) < run.end;) job.task(job.context, i);
    }
  }, &job);
}

int pool_size() { return the_pool().size(); }

void* scratch(int slot, size_t bytes) {
  static thread_local Buffer buffers[kSlots];
  Buffer& b = buffers[slot];
  if (b.size < bytes) {
    std::free(b.data);
    b.size = (bytes + 4095) / 4096 * 4096;
    b.data = std::aligned_alloc(64, b.size);
    if (!b.data) {
      b.size = 0;
      throw std::bad_alloc();
    }
  }
  return b.data;
}

}  // namespace mlxlm
