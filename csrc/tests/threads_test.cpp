// Parts on threads of the caller and of the pool, nested and competing calls of pc_parallel, and fork().
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "gemm.h"

using namespace test;

namespace {

constexpr int32_t kParts[] = {1, 2, 3, 7};

// Everything that a call with parts needs, so that each part can run anywhere.
struct Work {
  static constexpr int64_t M = 45, N = 130, K = 70;
  std::vector<float> x, wf, yf;
  std::vector<int8_t> w8;
  pc_gemm_s8_desc s8{};
  pc_gemm_f32_desc f32{};
  std::unique_ptr<Aligned> packed, workspace_s8, workspace_f32;
  bool is_s8;

  explicit Work(bool int8) : x(M * K), wf(N * K), yf(M * N), w8(N * K), is_s8(int8) {
    Random random(12);
    for (float& v : x) v = random.real(-1, 1);
    for (float& v : wf) v = random.real(-1, 1);
    random.fill(w8.data(), w8.size());
    s8.size = sizeof s8;
    f32.size = sizeof f32;
    s8.m = f32.m = M;
    s8.n = f32.n = N;
    s8.k = f32.k = K;
    s8.x_type = PC_F32;
    s8.y_type = PC_F32;
    s8.activation = f32.activation = PC_ACTIVATION_SILU;
    packed.reset(new Aligned(pack_s8(w8.data(), PC_S8, N, K, K, 1, nullptr)));
    size_t bytes = 0;
    CHECK_OK(pc_gemm_s8_workspace_size(&s8, packed->data(), packed->bytes(), 7, &bytes));
    workspace_s8.reset(new Aligned(bytes));
    CHECK_OK(pc_gemm_f32_workspace_size(&f32, 7, &bytes));
    workspace_f32.reset(new Aligned(bytes));
  }

  pc_status part(int32_t ith, int32_t nth) {
    return is_s8 ? pc_gemm_s8_run(&s8, packed->data(), packed->bytes(), x.data(), yf.data(), workspace_s8->data(), workspace_s8->bytes(), ith, nth)
                 : pc_gemm_f32_run(&f32, wf.data(), 0, x.data(), yf.data(), workspace_f32->data(), workspace_f32->bytes(), ith, nth);
  }

  std::vector<float> fresh(const std::function<void()>& run) {
    std::fill(yf.begin(), yf.end(), -1.0f);
    run();
    return yf;
  }
};

pc_status part_of_work(void* work, int32_t ith, int32_t nth) { return static_cast<Work*>(work)->part(ith, nth); }

TEST(parts_on_threads_of_the_caller) {
  for_each_isa([](const std::string&) {
    for (const bool int8 : {true, false}) {
      Work work(int8);
      const std::vector<float> whole = work.fresh([&] { CHECK_OK(work.part(0, 1)); });
      for (const int32_t nth : kParts) {
        const std::vector<float> forwards = work.fresh([&] {
          for (int32_t i = 0; i < nth; ++i) CHECK_OK(work.part(i, nth));
        });
        const std::vector<float> mixed = work.fresh([&] {
          for (int32_t i = 0; i < nth; ++i) CHECK_OK(work.part((i * 5 + 2) % nth, nth));  // 5 is prime to every nth here
        });
        CHECK(forwards == whole && mixed == whole, "nth %d one after another", nth);
        for (int repeat = 0; repeat < 5; ++repeat) {
          const std::vector<float> together = work.fresh([&] {
            std::atomic<int32_t> failed{0};
            std::vector<std::thread> threads;
            for (int32_t i = 0; i < nth; ++i) threads.emplace_back([&work, &failed, i, nth] { failed += work.part(i, nth) != PC_OK; });
            for (std::thread& t : threads) t.join();
            CHECK(failed == 0);
          });
          CHECK(together == whole, "nth %d at the same time", nth);
        }
        const std::vector<float> pooled = work.fresh([&] { CHECK_OK(pc_parallel(part_of_work, &work, nth)); });
        CHECK(pooled == whole, "nth %d in the pool", nth);
      }
    }
  });
}

// ---- pc_parallel itself

struct Counter {
  std::atomic<int32_t> calls[64];
  std::atomic<int32_t> wrong_nth{0};
  Counter() {
    for (std::atomic<int32_t>& c : calls) c = 0;
  }
  bool each_once(int32_t nth) const {
    for (int32_t i = 0; i < 64; ++i)
      if (calls[i] != (i < nth ? 1 : 0)) return false;
    return wrong_nth == 0;
  }
};

TEST(every_part_once) {
  for (int32_t nth = 1; nth <= 64; ++nth)
    for (int repeat = 0; repeat < 20; ++repeat) {
      Counter counter;
      CHECK_OK(pc_parallel(
          [](void* c, int32_t ith, int32_t) -> pc_status {
            ++static_cast<Counter*>(c)->calls[ith];
            return PC_OK;
          },
          &counter, nth));
      CHECK(counter.each_once(nth), "nth %d", nth);
    }
}

TEST(nested) {
  Counter counter;
  const auto inner = [](void* c, int32_t ith, int32_t nth) -> pc_status {
    Counter* own = static_cast<Counter*>(c);
    own->wrong_nth += nth != 5;
    ++own->calls[ith];
    return PC_OK;
  };
  static pc_status (*const inner_body)(void*, int32_t, int32_t) = inner;
  CHECK_OK(pc_parallel([](void* c, int32_t, int32_t) -> pc_status { return pc_parallel(inner_body, c, 5); }, &counter, 4));
  for (int i = 0; i < 5; ++i) CHECK(counter.calls[i] == 4);
  CHECK(counter.wrong_nth == 0);
}

TEST(two_threads_at_once) {
  std::atomic<int> wrong{0};
  const auto caller = [&wrong] {
    for (int i = 0; i < 2000 / kStride; ++i) {
      Counter counter;
      const pc_status status = pc_parallel(
          [](void* c, int32_t ith, int32_t) -> pc_status {
            ++static_cast<Counter*>(c)->calls[ith];
            return PC_OK;
          },
          &counter, 8);
      wrong += status != PC_OK || !counter.each_once(8);
    }
  };
  std::thread a(caller), b(caller);
  a.join();
  b.join();
  CHECK(wrong == 0, "%d", wrong.load());
}

// The status of a part that fails comes back with its message, whichever thread it ran on, and the other parts still run.
TEST(failure_of_a_part) {
  for (int32_t bad = 0; bad < 8; ++bad) {
    struct Context {
      int32_t bad;
      std::atomic<int32_t> ran{0};
    } context;
    context.bad = bad;
    const pc_status status = pc_parallel(
        [](void* c, int32_t ith, int32_t) -> pc_status {
          Context* own = static_cast<Context*>(c);
          ++own->ran;
          return ith == own->bad ? pc_range_run(nullptr, 1, nullptr, 0, 1) : PC_OK;
        },
        &context, 8);
    CHECK(status == PC_ERROR_NULL && context.ran == 8);
    CHECK(std::strcmp(pc_last_error(), "x or range is NULL") == 0, "%s", pc_last_error());
  }
}

TEST(thread_count) {
  CHECK_OK(pc_set_num_threads(3));
  CHECK(pc_get_num_threads() == 3);
  CHECK_STATUS(PC_ERROR_VALUE, pc_set_num_threads(-1));
  CHECK_STATUS(PC_ERROR_VALUE, pc_set_num_threads(4097));
  CHECK(pc_get_num_threads() == 3);
  CHECK_OK(pc_set_num_threads(0));
  CHECK(pc_get_num_threads() >= 1);
}

// ---- fork

// What the child returned, or -1 when it did not end in time (it is killed then).
int run_in_child(int (*child)()) {
  std::fflush(stdout);
  const pid_t pid = fork();
  if (pid == 0) _exit(child());
  for (int i = 0; i < 3000; ++i) {
    int status = 0;
    if (waitpid(pid, &status, WNOHANG) == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  return -1;
}

int use_pool() {
  for (int i = 0; i < 50; ++i) {
    Counter counter;
    const pc_status status = pc_parallel(
        [](void* c, int32_t ith, int32_t) -> pc_status {
          ++static_cast<Counter*>(c)->calls[ith];
          return PC_OK;
        },
        &counter, 4);
    if (status != PC_OK || !counter.each_once(4)) return 1;
  }
  return 0;
}

// Whether the pool has living workers: two parts that wait for each other, so one thread alone could not do both.
int use_workers() {
  struct Meeting {
    std::atomic<int32_t> inside{0};
  } meeting;
  return pc_parallel(
      [](void* c, int32_t, int32_t) -> pc_status {
        Meeting* own = static_cast<Meeting*>(c);
        ++own->inside;
        for (int i = 0; i < 10000 && own->inside < 2; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return own->inside < 2 ? PC_ERROR_VALUE : PC_OK;
      },
      &meeting, 2);
}

TEST(workers_help) { CHECK(use_workers() == PC_OK); }

TEST(fork_after_use) {
  CHECK(use_pool() == 0);
  CHECK(run_in_child(use_workers) == 0, "the child has no workers");
  for (int i = 0; i < 5; ++i) CHECK(run_in_child(use_pool) == 0);
  CHECK(run_in_child([] { return run_in_child(use_pool); }) == 0, "a child of a child");
  CHECK(use_pool() == 0);
}

// The child starts afresh even when the fork comes while other threads hold the parent's pool.
TEST(fork_while_the_pool_works) {
  std::atomic<bool> stop{false}, inside{false};
  struct Context {
    std::atomic<bool>*stop, *inside;
  } context = {&stop, &inside};
  std::thread other([&context] {
    (void)pc_parallel(
        [](void* c, int32_t, int32_t) -> pc_status {
          *static_cast<Context*>(c)->inside = true;
          while (!*static_cast<Context*>(c)->stop) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          return PC_OK;
        },
        &context, 4);
  });
  while (!inside) std::this_thread::yield();
  CHECK(run_in_child(use_workers) == 0, "the child has no workers");
  for (int i = 0; i < 5; ++i) CHECK(run_in_child(use_pool) == 0);
  CHECK(use_pool() == 0, "the parent runs its parts itself meanwhile");
  stop = true;
  other.join();
  CHECK(use_pool() == 0);
}

// The same in a moment when the pool is being taken and given back all the time.
TEST(fork_at_any_moment) {
  std::atomic<bool> stop{false};
  std::thread other([&stop] {
    while (!stop) (void)use_pool();
  });
  for (int i = 0; i < 30 / kStride; ++i) CHECK(run_in_child(use_pool) == 0);
  stop = true;
  other.join();
}

}  // namespace
