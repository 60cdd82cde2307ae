// Weights that a kernel for saturating instructions splits (csrc/gemm/s8_split.kernel.cpp): every pair that could saturate, in every lane; as many as
// there is room for, and one more; entries that could saturate themselves; the rest of few and of many rows; damaged entries. Other instruction sets
// run the same as a check of the test.
#include <cmath>
#include <vector>

#include "gemm.h"
#include "reference.h"
#include "test.h"

namespace {

using namespace test;

constexpr int64_t kK = 200;  // long enough to be split

const char* kernel_of(Aligned& packed) {
  const char* kernel = "";
  CHECK_OK(pc_gemm_s8_packed_info(packed.data(), packed.bytes(), nullptr, nullptr, &kernel));
  return kernel;
}

bool splits(const std::string& isa) { return isa == "avx2"; }

void check_product(Aligned& packed, const std::vector<uint8_t>& x, pc_type x_type, const std::vector<int>& w, int64_t m, int64_t n, int64_t k,
                   int32_t nth) {
  pc_gemm_s8_desc d{};
  d.size = sizeof d;
  d.m = m;
  d.n = n;
  d.k = k;
  d.x_type = x_type;
  d.y_type = PC_S32;
  d.x_zero_point = 3;
  std::vector<int32_t> y(static_cast<size_t>(m * n), -1);
  CHECK_OK(run_s8(d, packed, x.data(), y.data(), nth));
  int wrong = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      int64_t sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        const uint8_t value = x[static_cast<size_t>(i * k + p)];
        sum += int64_t{(x_type == PC_S8 ? static_cast<int8_t>(value) : value) - 3} * w[static_cast<size_t>(j * k + p)];
      }
      wrong += y[static_cast<size_t>(i * n + j)] != sum;
    }
  CHECK(wrong == 0, "%d values wrong: m=%lld n=%lld k=%lld nth=%d, %s", wrong, static_cast<long long>(m), static_cast<long long>(n),
        static_cast<long long>(k), nth, kernel_of(packed));
}

struct Weight {
  std::vector<int> values;  // as they count
  std::vector<uint8_t> stored;
  pc_type type;
};

Weight make(pc_type type, size_t count) { return {std::vector<int>(count), std::vector<uint8_t>(count), type}; }

void set(Weight& w, size_t i, int value) {
  w.values[i] = value;
  w.stored[i] = static_cast<uint8_t>(value);
}

TEST(a_pair_in_every_lane) {
  for_each_isa([](const std::string& isa) {
    constexpr int64_t M = 9, N = 17, K = kK;
    const int pairs[][2] = {{127, 127}, {127, 2}, {2, 127}, {64, 65}, {-128, -128}, {-128, -1}, {-1, -128}, {-64, -65}, {-127, -127}};
    std::vector<uint8_t> x(M * K);
    for (size_t i = 0; i < x.size(); ++i) x[i] = i % 7 == 0 ? 0 : 255;
    for (const auto& pair : pairs)
      for (int64_t n = 0; n < N; n += kStride)
        for (int64_t k : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{3}, K - 5, K - 2}) {
          Weight w = make(PC_S8, N * K);
          for (size_t i = 0; i < w.values.size(); ++i) set(w, i, static_cast<int>(i % 3) - 1);
          set(w, static_cast<size_t>(n * K + k), pair[0]);
          set(w, static_cast<size_t>(n * K + k + 1), pair[1]);
          Aligned packed = pack_s8(w.stored.data(), PC_S8, N, K, K, 1, nullptr);
          CHECK(!splits(isa) || std::string(kernel_of(packed)) == "gemm_s8_split/" + isa, "%s", kernel_of(packed));
          check_product(packed, x, PC_U8, w.values, M, N, K, 1);
        }
  });
}

// Bell-shaped, as trained weights are: a few percent of the pairs could saturate.
int bell(Random& random, double deviation) {
  double sum = 0;
  for (int i = 0; i < 12; ++i) sum += random.real(-0.5f, 0.5f);
  return static_cast<int>(std::lrint(std::fmax(-127, std::fmin(127, sum * deviation))));
}

TEST(bell_shaped_weights) {
  for_each_isa([](const std::string& isa) {
    Random random(11);
    for (const int64_t n : {1, 15, 16, 17, 33})
      for (const int64_t k : {192, 193, 255, 400}) {
        Weight w = make(PC_S8, static_cast<size_t>(n * k));
        for (size_t i = 0; i < w.values.size(); ++i) set(w, i, bell(random, 38));
        Aligned packed = pack_s8(w.stored.data(), PC_S8, n, k, k, 1, nullptr);
        CHECK(!splits(isa) || std::string(kernel_of(packed)) == "gemm_s8_split/" + isa, "%s", kernel_of(packed));
        for (const int64_t m : {1, 2, 6, 7, 8, 9, 15, 16, 17, 32, 40, 65})
          for (const pc_type type : {PC_U8, PC_S8}) {
            std::vector<uint8_t> x(static_cast<size_t>(m * k));
            random.fill(x.data(), x.size());
            for (const int32_t nth : {1, 3}) check_product(packed, x, type, w.values, m, n, k, nth);
          }
      }
  });
}

// What is cut off is as large as it can be, of one sign, of both, and of changing sizes.
TEST(large_entries) {
  for_each_isa([](const std::string& isa) {
    constexpr int64_t N = 17, K = 400, pairs = 16;
    Random random(16);
    const int values[] = {127, -128, 65, -65};
    for (int turn = 0; turn < 20; ++turn) {
      Weight w = make(PC_S8, N * K);
      for (int64_t n = 0; n < N; n += 4)
        for (int64_t i = 0; i < pairs; ++i) {
          const int value = values[turn < 4 ? turn : random.integer(0, 3)];
          for (int64_t j : {0, 1}) set(w, static_cast<size_t>(n * K + 20 * i + 4 * (n % 3) + j), value);
        }
      Aligned packed = pack_s8(w.stored.data(), PC_S8, N, K, K, 1, nullptr);
      CHECK(!splits(isa) || std::string(kernel_of(packed)) == "gemm_s8_split/" + isa, "%s", kernel_of(packed));
      for (const int64_t m : {1, 7, 13, 30, 70}) {
        std::vector<uint8_t> x(static_cast<size_t>(m * K), 255);
        check_product(packed, x, PC_U8, w.values, m, N, K, 1);
      }
    }
  });
}

// A column of the rest has 16 bits.
TEST(the_longest_k) {
  for_each_isa([](const std::string& isa) {
    for (const int64_t k : {65535, 65536, 65793}) {
      Weight w = make(PC_S8, static_cast<size_t>(k));
      for (const int64_t i : {int64_t{0}, int64_t{65532}}) {
        set(w, static_cast<size_t>(i), 127);
        set(w, static_cast<size_t>(i + 1), 127);
      }
      Aligned packed = pack_s8(w.stored.data(), PC_S8, 1, k, k, 1, nullptr);
      const std::string kernel = kernel_of(packed);
      CHECK(!splits(isa) || kernel == (k > 65535 ? "gemm_s8/" : "gemm_s8_split/") + isa, "%s with k=%lld", kernel.c_str(), static_cast<long long>(k));
      for (const int64_t m : {1, 4}) check_product(packed, std::vector<uint8_t>(static_cast<size_t>(m * k), 255), PC_U8, w.values, m, 1, k, 1);
    }
  });
}

// Blocks of rows: more than one, the last of them with few rows.
TEST(many_rows) {
  for_each_isa([](const std::string&) {
    constexpr int64_t M = 403, N = 20, K = 1500;
    Random random(12);
    Weight w = make(PC_S8, N * K);
    for (size_t i = 0; i < w.values.size(); ++i) set(w, i, bell(random, 38));
    Aligned packed = pack_s8(w.stored.data(), PC_S8, N, K, K, 1, nullptr);
    std::vector<uint8_t> x(M * K);
    random.fill(x.data(), x.size());
    check_product(packed, x, PC_U8, w.values, M, N, K, 1);
    check_product(packed, x, PC_U8, w.values, M, N, K, 2);
  });
}

TEST(unsigned_weights_with_zero_points) {
  for_each_isa([](const std::string&) {
    constexpr int64_t M = 11, N = 18, K = kK;
    Random random(13);
    Weight w = make(PC_U8, N * K);
    std::vector<int32_t> zero_points(N);
    for (size_t i = 0; i < N; ++i) zero_points[i] = static_cast<int32_t>(random.integer(0, 255));
    for (size_t i = 0; i < w.values.size(); ++i) {
      set(w, i, 128 + bell(random, 38));
      w.values[i] -= zero_points[i / K];
    }
    Aligned packed = pack_s8(w.stored.data(), PC_U8, N, K, K, 1, nullptr);
    std::vector<uint8_t> x(M * K);
    random.fill(x.data(), x.size());
    pc_gemm_s8_desc d{};
    d.size = sizeof d;
    d.m = M;
    d.n = N;
    d.k = K;
    d.x_type = PC_U8;
    d.y_type = PC_S32;
    d.w_zero_points = zero_points.data();
    std::vector<int32_t> y(M * N);
    CHECK_OK(run_s8(d, packed, x.data(), y.data()));
    int wrong = 0;
    for (size_t i = 0; i < M; ++i)
      for (size_t j = 0; j < N; ++j) {
        int64_t sum = 0;
        for (size_t p = 0; p < K; ++p) sum += int64_t{x[i * K + p]} * w.values[j * K + p];
        wrong += y[i * N + j] != sum;
      }
    CHECK(wrong == 0, "%d values wrong", wrong);
  });
}

// As many pairs as there is room for, and one more: then the weight is not split.
TEST(room_for_the_rest) {
  for_each_isa([](const std::string& isa) {
    constexpr int64_t M = 10, N = 16, K = 240, room = N * K / 24;
    Random random(14);
    std::vector<uint8_t> x(M * K);
    random.fill(x.data(), x.size());
    for (const int64_t pairs : {room, room + 1}) {
      Weight w = make(PC_S8, N * K);
      for (int64_t i = 0; i < pairs; ++i) {
        set(w, static_cast<size_t>(2 * i), 100);
        set(w, static_cast<size_t>(2 * i + 1), 29);
      }
      Aligned packed = pack_s8(w.stored.data(), PC_S8, N, K, K, 1, nullptr);
      const std::string kernel = kernel_of(packed);
      CHECK(!splits(isa) || kernel == (pairs > room ? "gemm_s8/" : "gemm_s8_split/") + isa, "%s with %lld pairs", kernel.c_str(),
            static_cast<long long>(pairs));
      check_product(packed, x, PC_U8, w.values, M, N, K, 1);
    }
  });
}

// Entries that point anywhere: wrong results, but nothing is read outside.
TEST(damaged_rest) {
  for_each_isa([](const std::string&) {
    constexpr int64_t M = 9, N = 16, K = kK;
    Random random(15);
    Weight w = make(PC_S8, N * K);
    for (size_t i = 0; i < w.values.size(); ++i) set(w, i, bell(random, 38));
    Aligned packed = pack_s8(w.stored.data(), PC_S8, N, K, K, 1, nullptr);
    const size_t header = 64;
    std::vector<uint8_t> x(M * K);
    std::vector<int32_t> y(M * N);
    for (const int64_t m : {int64_t{1}, M}) {
      pc_gemm_s8_desc d{};
      d.size = sizeof d;
      d.m = m;
      d.n = N;
      d.k = K;
      d.x_type = PC_U8;
      d.y_type = PC_S32;
      for (int turn = 0; turn < 50; ++turn) {
        random.fill(packed.data() + header, packed.bytes() - header);
        CHECK_OK(run_s8(d, packed, x.data(), y.data()));
      }
    }
  });
}

}  // namespace
