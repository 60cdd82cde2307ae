// The default pool: persistent threads that sleep on a condition variable when there is nothing to do.
//
// Layers follow one another within microseconds, while waking a thread takes tens of them, and on a virtual machine whose core was given back even
// milliseconds. So a worker that has finished looks out for the next job for a moment, yielding to whoever else wants its core, before it sleeps;
// not when a second caller runs beside the pool, which needs that core. A job is cut into nth parts: the caller does the first, then it and the
// workers claim the others from one counter, so a worker that wakes late costs nothing: the caller has done its part meanwhile. One job runs at a
// time; a second caller finds the pool taken and runs its parts itself, which is what two Python threads on two cores want. After fork() the child
// has none of the threads: its handler puts a fresh pool in place and never touches the old one, whose mutex may be held by a thread that is no more.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "core/cpu.h"
#include "core/status.h"

namespace pc {
namespace {

constexpr int32_t kMostThreads = 4096;
constexpr std::chrono::microseconds kWatch{500};  // for the next job
constexpr std::chrono::microseconds kWait{50};    // of the caller, for the last part

// Until done() or for so long; whether it was done. Looking again after a yield takes half a microsecond; the pause instruction in its place takes
// 20 on a virtual machine, whose host takes it for a lock that waits.
template <class Done> bool spin(std::chrono::microseconds time, Done done) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::yield();
  }
  return true;
}

void keep(char (&message)[256]) { std::snprintf(message, sizeof message, "%s", pc_last_error()); }

struct Job {
  pc_body body;
  void* context;
  int32_t nth;
  std::atomic<int32_t> next{1};    // part 0 is the caller's
  std::atomic<int32_t> inside{0};  // workers that hold a pointer to this job
  std::atomic<pc_status> status{PC_OK};
  char message[256] = "";  // of the part that set status

  Job(pc_body b, void* c, int32_t n) : body(b), context(c), nth(n) {}

  void part(int32_t ith) {
    const pc_status result = body(context, ith, nth);
    pc_status expected = PC_OK;
    if (result != PC_OK && status.compare_exchange_strong(expected, result)) keep(message);
  }

  void work() {
    for (int32_t ith; (ith = next.fetch_add(1, std::memory_order_relaxed)) < nth;) part(ith);
  }
};

class Pool {
 public:
  pc_status run(pc_body body, void* context, int32_t nth) {
    const Inside inside(inside_);
    if (!inside.first) return run_here(body, context, nth);
    Job job(body, context, nth);
    const int32_t helpers = grow(nth - 1);
    int32_t asleep;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      wanted_.store(helpers);
      asleep = helpers - watching_;
    }
    for (int32_t i = 0; i < asleep; ++i) wake_.notify_one();
    job.part(0);  // so pc_last_kernel() of the calling thread always knows of this job
    job.work();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = nullptr;  // nobody enters any more
      wanted_.store(0);
    }
    const auto finished = [&] { return job.inside.load() == 0; };  // all parts were claimed, by this thread or by one inside
    if (!spin(kWait, finished)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, finished);
    }
    if (job.status.load() != PC_OK) set_last_error(job.message);
    return job.status.load();
  }

  static pc_status run_here(pc_body body, void* context, int32_t nth) {
    pc_status first = PC_OK;
    char message[256];
    for (int32_t ith = 0; ith < nth; ++ith) {
      const pc_status result = body(context, ith, nth);
      if (result != PC_OK && first == PC_OK) {
        first = result;
        keep(message);
      }
    }
    if (first != PC_OK) set_last_error(message);
    return first;
  }

 private:
  // A caller that is in run(); whether it came when no other was.
  struct Inside {
    std::atomic<int32_t>& count;
    const bool first;
    explicit Inside(std::atomic<int32_t>& c) : count(c), first(c.fetch_add(1) == 0) {}
    ~Inside() { count.fetch_sub(1); }
  };

  // Starts workers until there are `count`, or as many as can be asked for; fewer when the system gives no more. Only called by the one whose job
  // runs.
  int32_t grow(int32_t count) {
    count = std::min(count, kMostThreads - 1);
    try {
      for (; started_ < count; ++started_) std::thread([this] { loop(); }).detach();
    } catch (const std::exception&) {
    }
    return started_ < count ? started_ : count;
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return job_ && wanted_.load() > 0; });
      Job* job = job_;
      wanted_.fetch_sub(1);
      job->inside.fetch_add(1);
      lock.unlock();
      job->work();
      lock.lock();
      job->inside.fetch_sub(1);  // the job may be gone from here on
      done_.notify_one();
      ++watching_;
      lock.unlock();
      spin(kWatch, [&] { return wanted_.load() > 0 || inside_.load() > 1; });
      lock.lock();
      --watching_;
    }
  }

  std::atomic<int32_t> inside_{0};  // callers: the first of them has the workers
  std::mutex mutex_;                // guards all below, but that wanted_ is read without
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  std::atomic<int32_t> wanted_{0};  // workers that may still enter it
  int32_t watching_ = 0;            // workers that look out for the next job
  int32_t started_ = 0;
};

// Never destroyed: detached workers may still wait in it when the process ends.
std::atomic<Pool*> pool{nullptr};
std::atomic<int32_t> thread_count{0};

#if !defined(_WIN32)
void after_fork_in_child() { pool.store(new (std::nothrow) Pool); }
#endif

Pool* the_pool() {
  static const bool once = [] {
    pool.store(new (std::nothrow) Pool);
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, after_fork_in_child);
#endif
    return true;
  }();
  (void)once;
  return pool.load();
}

// The text as a number from 1 to kMostThreads, or the first of a list, as OpenMP allows one for each level; else 0.
int32_t parse_count(const char* text) {
  if (!text || !*text) return 0;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return (*end == '\0' || *end == ',') && value >= 1 && value <= kMostThreads ? static_cast<int32_t>(value) : 0;
}

int32_t default_thread_count() {
  for (const char* name : {"PYCOMPRESS_NUM_THREADS", "OMP_NUM_THREADS"})
    if (const int32_t count = parse_count(std::getenv(name))) return count;
  return usable_cpus();
}

}  // namespace
}  // namespace pc

extern "C" {

int32_t pc_get_num_threads(void) {
  int32_t count = pc::thread_count.load(std::memory_order_relaxed);
  if (count == 0) {
    count = pc::default_thread_count();
    pc::thread_count.store(count, std::memory_order_relaxed);
  }
  return count;
}

pc_status pc_set_num_threads(int32_t n) {
  PC_CHECK(n >= 0 && n <= pc::kMostThreads, PC_ERROR_VALUE, "num_threads is %d, wanted 1 to %d, or 0 for the default", n, pc::kMostThreads);
  pc::thread_count.store(n, std::memory_order_relaxed);
  return PC_OK;
}

pc_status pc_parallel(pc_body body, void* context, int32_t nth) {
  PC_CHECK(body, PC_ERROR_NULL, "body is NULL");
  PC_CHECK(nth >= 1, PC_ERROR_VALUE, "nth is %d, wanted >= 1", nth);
  if (nth == 1) return body(context, 0, 1);
  pc::Pool* pool = pc::the_pool();
  return pool ? pool->run(body, context, nth) : pc::Pool::run_here(body, context, nth);
}
}
