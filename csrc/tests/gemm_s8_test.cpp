// gemm_s8: the integers against int64 sums, the last step against reference.h, on every instruction set.
#include "gemm.h"
#include "reference.h"

using namespace test;

namespace {

constexpr int kLast = 33;  // past the largest tile (12 x 32) and the largest group of k (4) in all three directions
constexpr int kLdx = 40, kLdw = 37, kGap = 3;

struct Types {
  pc_type x, w;
};
constexpr Types kTypes[] = {{PC_U8, PC_S8}, {PC_U8, PC_U8}, {PC_S8, PC_S8}, {PC_S8, PC_U8}};

int32_t value(const uint8_t* data, pc_type type, int64_t i) { return type == PC_U8 ? data[i] : reinterpret_cast<const int8_t*>(data)[i]; }

// The largest problem; smaller ones are its corners, so that the sums for k + 1 follow from those for k.
struct Problem {
  Types types;
  uint8_t x[kLast * kLdx], w[kLast * kLdw];
  int32_t x_zero_points[kLast], w_zero_points[kLast], x_zero_point;
  int64_t by_row[kLast][kLast];     // with x_zero_points and w_zero_points
  int64_t by_tensor[kLast][kLast];  // with x_zero_point and none for w

  Problem(Types t, Random& random) : types(t), by_row{}, by_tensor{} {
    random.fill(x, sizeof x);
    random.fill(w, sizeof w);
    const reference::Limits lx = reference::limits_of(t.x), lw = reference::limits_of(t.w);
    for (int i = 0; i < kLast; ++i) {
      x_zero_points[i] = static_cast<int32_t>(random.integer(lx.low, lx.high));
      w_zero_points[i] = static_cast<int32_t>(random.integer(lw.low, lw.high));
    }
    x_zero_point = static_cast<int32_t>(random.integer(lx.low, lx.high));
  }

  void add(int k) {
    for (int m = 0; m < kLast; ++m)
      for (int n = 0; n < kLast; ++n) {
        const int32_t a = value(x, types.x, m * kLdx + k), b = value(w, types.w, n * kLdw + k);
        by_row[m][n] += static_cast<int64_t>(a - x_zero_points[m]) * (b - w_zero_points[n]);
        by_tensor[m][n] += static_cast<int64_t>(a - x_zero_point) * b;
      }
  }
};

void check_small(const Problem& p, Aligned& packed, Aligned& workspace, int m, int n, int k, bool by_row) {
  int32_t y[kLast * (kLast + kGap)];
  const int ldy = n + kGap;
  std::memset(y, 0x5a, sizeof y);
  pc_gemm_s8_desc d{};
  d.size = sizeof d;
  d.m = m;
  d.n = n;
  d.k = k;
  d.ldx = kLdx;
  d.ldy = ldy;
  d.x_type = p.types.x;
  d.y_type = PC_S32;
  d.x_zero_point = by_row ? 0 : p.x_zero_point;
  d.x_zero_points = by_row ? p.x_zero_points : nullptr;
  d.w_zero_points = by_row ? p.w_zero_points : nullptr;
  size_t bytes = 0;
  CHECK_OK(pc_gemm_s8_workspace_size(&d, packed.data(), packed.bytes(), 1, &bytes));
  CHECK(bytes <= workspace.bytes());
  CHECK_OK(pc_gemm_s8_run(&d, packed.data(), packed.bytes(), p.x, y, workspace.data(), bytes, 0, 1));
  int wrong = 0;
  for (int i = 0; i < m; ++i) {
    const int64_t* wanted = by_row ? p.by_row[i] : p.by_tensor[i];
    for (int j = 0; j < n; ++j) wrong += y[i * ldy + j] != wanted[j];
    for (int j = n; j < ldy; ++j) wrong += y[i * ldy + j] != 0x5a5a5a5a;
  }
  CHECK(wrong == 0, "%d values wrong: types %d x %d, m=%d n=%d k=%d, %s", wrong, p.types.x, p.types.w, m, n, k, by_row ? "by row" : "by tensor");
}

TEST(all_small_shapes) {
  for_each_isa([](const std::string& isa) {
    Random random(7);
    const std::vector<int> sizes = sizes_to(kLast);
    Aligned workspace(size_t{1} << 20);
    for (const Types types : kTypes) {
      Problem p(types, random);
      for (int k = 1; k <= kLast; ++k) {
        p.add(k - 1);
        for (const int n : sizes) {
          Aligned packed = pack_s8(p.w, types.w, n, k, kLdw, 1, nullptr);
          for (const int m : sizes)
            for (const bool by_row : {true, false}) check_small(p, packed, workspace, m, n, k, by_row);
        }
      }
    }
    check_kernel("gemm_s8", isa);
  });
}

// Every pair of extremes in each position of k and each lane: x[m, k] is a at one position and b elsewhere, and so is w.
TEST(extremes_in_every_lane) {
  for_each_isa([](const std::string&) {
    constexpr int M = 13, N = 33, K = 9;
    const int32_t extremes[] = {-128, -127, -1, 0, 1, 127, 128, 255};
    for (const Types types : kTypes) {
      const reference::Limits lx = reference::limits_of(types.x), lw = reference::limits_of(types.w);
      for (const int32_t a : extremes)
        for (const int32_t b : extremes) {
          if (a < lx.low || a > lx.high || b < lw.low || b > lw.high) continue;
          for (int lane = 0; lane <= K; ++lane) {  // lane == K: everywhere
            uint8_t x[M * K] = {}, w[N * K] = {};
            int32_t y[M * N];
            for (int m = 0; m < M; ++m)
              for (int k = 0; k < K; ++k) x[m * K + k] = static_cast<uint8_t>(lane == K || k == (lane + m) % K ? a : 0);
            for (int n = 0; n < N; ++n)
              for (int k = 0; k < K; ++k) w[n * K + k] = static_cast<uint8_t>(b);
            for (const int32_t zero_point : {lx.low, lx.high}) {
              pc_gemm_s8_desc d{};
              d.size = sizeof d;
              d.m = M;
              d.n = N;
              d.k = K;
              d.x_type = types.x;
              d.y_type = PC_S32;
              d.x_zero_point = zero_point;
              Aligned packed = pack_s8(w, types.w, N, K, K, 1, nullptr);
              CHECK_OK(run_s8(d, packed, x, y));
              const int32_t at_lane = lane == K ? K : 1;
              const int32_t wanted = (at_lane * a - K * zero_point) * b;
              for (int i = 0; i < M * N; ++i)
                CHECK(y[i] == wanted, "x %d, w %d, lane %d, zero point %d: got %d, wanted %d", a, b, lane, zero_point, y[i], wanted);
            }
          }
        }
    }
  });
}

// The longest k allowed, with the largest products: the sum uses all of int32. One more is refused.
TEST(longest_k) {
  for_each_isa([](const std::string&) {
    struct Row {
      pc_type x_type, w_type;
      int x, w, x_zero_point, w_zero_point;
      int64_t k;
    };
    const Row rows[] = {
        {PC_U8, PC_S8, 255, -128, 0, 0, 65793},    {PC_U8, PC_S8, 255, 127, 0, 0, 65793},     {PC_U8, PC_S8, 0, -128, 255, 0, 65793},
        {PC_S8, PC_S8, 127, -128, -128, 0, 65793}, {PC_S8, PC_S8, -128, -128, 127, 0, 65793}, {PC_U8, PC_U8, 255, 255, 0, 0, 33025},
        {PC_U8, PC_U8, 0, 255, 255, 0, 33025},     {PC_U8, PC_S8, 255, -128, 0, 127, 33025},  {PC_S8, PC_S8, -128, 127, 127, -128, 33025},
        {PC_S8, PC_U8, -128, 0, 127, 255, 33025},
    };
    for (const Row& r : rows) {
      constexpr int M = 2, N = 2;
      for (const int64_t more : {0, 1}) {
        const int64_t k = r.k + more;
        std::vector<uint8_t> x(static_cast<size_t>(M * k), static_cast<uint8_t>(r.x)), w(static_cast<size_t>(N * k), static_cast<uint8_t>(r.w));
        const int32_t w_zero_points[N] = {r.w_zero_point, r.w_zero_point};
        int32_t y[M * N] = {};
        size_t bytes = 0;
        const bool packs = more == 0 || r.k < 65793;
        CHECK_STATUS(packs ? PC_OK : PC_ERROR_OVERFLOW, pc_gemm_s8_pack_size(N, k, &bytes));
        if (!packs) continue;
        Aligned packed = pack_s8(w.data(), r.w_type, N, k, k, 1, nullptr);
        pc_gemm_s8_desc d{};
        d.size = sizeof d;
        d.m = M;
        d.n = N;
        d.k = k;
        d.x_type = r.x_type;
        d.y_type = PC_S32;
        d.x_zero_point = r.x_zero_point;
        d.w_zero_points = r.w_zero_point ? w_zero_points : nullptr;
        CHECK_STATUS(more ? PC_ERROR_OVERFLOW : PC_OK, run_s8(d, packed, x.data(), y));
        const int64_t wanted = static_cast<int64_t>(r.x - r.x_zero_point) * (r.w - r.w_zero_point) * k;
        for (int i = 0; !more && i < M * N; ++i)
          CHECK(y[i] == wanted, "x %d - %d, w %d - %d: got %d, wanted %lld", r.x, r.x_zero_point, r.w, r.w_zero_point, y[i],
                static_cast<long long>(wanted));
      }
    }
  });
}

TEST(empty_sizes) {
  for_each_isa([](const std::string&) {
    for (const int64_t m : {0, 3})
      for (const int64_t n : {0, 5})
        for (const int64_t k : {0, 7}) {
          const uint8_t x[21] = {1}, w[35] = {1};
          const float bias[5] = {1, 2, 3, 4, 5};
          float y[15] = {};
          Aligned packed = pack_s8(w, PC_S8, n, k, k, 1, nullptr);
          pc_gemm_s8_desc d{};
          d.size = sizeof d;
          d.m = m;
          d.n = n;
          d.k = k;
          d.x_type = PC_U8;
          d.y_type = PC_F32;
          d.x_scale = 1;
          d.bias = bias;
          CHECK_OK(run_s8(d, packed, x, y));
          for (int64_t i = 0; k == 0 && i < m * n; ++i) CHECK(y[i] == bias[i % n], "k = 0 leaves the bias");
        }
  });
}

// ---- the last step

struct LastStep {
  int64_t m, n, k;
  pc_type x_type, w_type, y_type;
  bool x_scale_given, bias, w_zero_points;
  pc_activation activation;
  float low, high;
};

// float32 x: a few rows of each kind that has a rule of its own.
void fill_float_rows(std::vector<float>& x, int64_t m, int64_t k, Random& random) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < k; ++j) {
      float& v = x[static_cast<size_t>(i * k + j)];
      switch (i % 7) {
        case 0:
          v = random.real(-3, 5);
          break;
        case 1:
          v = 0;
          break;
        case 2:
          v = random.real(1e-38f, 7e-37f);
          break;  // 1 / scale is not finite
        case 3:
          v = random.real(0, 1e6f);
          break;
        case 4:
          v = random.real(-1e-30f, 0);
          break;
        case 5:
          v = static_cast<float>(random.integer(-510, 510)) * 0.5f;
          break;  // halves, when the scale is 1
        default:
          v = random.real(-1, 1) * std::ldexp(1.0f, static_cast<int>(random.integer(-20, 20)));
      }
    }
}

void check_last_step(const LastStep& c, Random& random) {
  const reference::Limits lx = reference::limits_of(c.x_type == PC_S8 ? PC_S8 : PC_U8), lw = reference::limits_of(c.w_type);
  const size_t m = static_cast<size_t>(c.m), n = static_cast<size_t>(c.n), k = static_cast<size_t>(c.k);
  std::vector<uint8_t> x8(m * k), w(n * k);
  std::vector<float> xf(m * k), w_scale(n), bias(n);
  std::vector<int32_t> w_zero_points(n);
  random.fill(x8.data(), x8.size());
  random.fill(w.data(), w.size());
  fill_float_rows(xf, c.m, c.k, random);
  for (size_t j = 0; j < n; ++j) {
    w_scale[j] = std::ldexp(random.real(0.5f, 1), static_cast<int>(random.integer(-8, 0)));
    bias[j] = random.real(-2, 2) * std::ldexp(1.0f, static_cast<int>(random.integer(-3, n % 2 && j % 5 == 4 ? 40 : 3)));  // some saturate
    w_zero_points[j] = static_cast<int32_t>(random.integer(lw.low, lw.high));
  }

  pc_gemm_s8_desc d{};
  d.size = sizeof d;
  d.m = c.m;
  d.n = c.n;
  d.k = c.k;
  d.ldy = c.n + kGap;
  d.x_type = c.x_type;
  d.y_type = c.y_type;
  d.x_scale = c.x_type == PC_F32 && !c.x_scale_given ? 0 : c.x_type == PC_F32 ? 1.0f : 0.0037f;
  d.x_zero_point = static_cast<int32_t>(random.integer(lx.low, lx.high));
  d.w_zero_points = c.w_zero_points ? w_zero_points.data() : nullptr;
  if (c.y_type != PC_F32) {
    d.y_scale = std::ldexp(random.real(0.5f, 1), static_cast<int>(random.integer(-3, 4)));
    const reference::Limits ly = reference::limits_of(c.y_type);
    d.y_zero_point = static_cast<int32_t>(random.integer(ly.low, ly.high));
  }
  d.bias = c.bias ? bias.data() : nullptr;
  d.activation = c.activation;
  d.low = c.low;
  d.high = c.high;

  // x as integers, with its scale and zero point by row.
  std::vector<int32_t> x(m * k), x_zero_point(m, d.x_zero_point);
  std::vector<float> x_scale(m, d.x_scale);
  for (size_t i = 0; i < m; ++i) {
    if (c.x_type == PC_F32 && !c.x_scale_given) {
      const reference::QParams q = reference::row_qparams(&xf[i * k], c.k);
      x_scale[i] = q.scale;
      x_zero_point[i] = q.zero_point;
    }
    const float inverse = 1.0f / x_scale[i];
    for (size_t j = 0; j < k; ++j)
      x[i * k + j] = c.x_type == PC_F32 ? reference::rounded(xf[i * k + j] * inverse, x_zero_point[i], {0, 255})
                                        : value(x8.data(), c.x_type, static_cast<int64_t>(i * k + j));
  }

  Aligned packed = pack_s8(w.data(), c.w_type, c.n, c.k, c.k, 1, w_scale.data());
  const size_t size = size_of(c.y_type), ldy = n + kGap;
  std::vector<uint8_t> y(m * ldy * size, 0xa5);
  const void* input = c.x_type == PC_F32 ? static_cast<const void*>(xf.data()) : x8.data();
  CHECK_OK(run_s8(d, packed, input, y.data()));
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < n; ++j) {
      int64_t acc = 0;
      for (size_t l = 0; l < k; ++l)
        acc += static_cast<int64_t>(x[i * k + l] - x_zero_point[i]) *
               (value(w.data(), c.w_type, static_cast<int64_t>(j * k + l)) - (c.w_zero_points ? w_zero_points[j] : 0));
      const float* b = c.bias ? &bias[j] : nullptr;
      const uint8_t* got = &y[(i * ldy + j) * size];
      if (c.y_type == PC_F32) {
        const float wanted = reference::to_f32(static_cast<int32_t>(acc), x_scale[i], w_scale[j], b, c.activation, c.low, c.high);
        float result;
        std::memcpy(&result, got, 4);
        CHECK(same_bits(result, wanted), "[%zu, %zu] of %zu x %zu x %zu, x_type %d, activation %d: got %a, wanted %a", i, j, m, n, k, c.x_type,
              c.activation, static_cast<double>(result), static_cast<double>(wanted));
      } else {
        const int32_t wanted = reference::to_q8(static_cast<int32_t>(acc), d, w_scale[j], b), result = value(got, c.y_type, 0);
        CHECK(result == wanted, "[%zu, %zu] of %zu x %zu x %zu, x_type %d, y_type %d, activation %d: got %d, wanted %d", i, j, m, n, k, c.x_type,
              c.y_type, c.activation, result, wanted);
      }
    }
    for (size_t b = n * size; b < ldy * size; ++b) CHECK(y[i * ldy * size + b] == 0xa5, "the gap after row %zu was written", i);
  }
}

TEST(last_step) {
  for_each_isa([](const std::string& isa) {
    const float infinity = std::numeric_limits<float>::infinity();
    Random random(11);
    int count = 0;
    struct Shape {
      int64_t m, n, k;
    };
    const Shape shapes[] = {{1, 1, 1}, {2, 7, 5}, {5, 16, 8}, {7, 17, 31}, {12, 32, 16}, {14, 33, 18}, {15, 48, 64}, {27, 65, 3}};
    struct Clamp {
      float low, high;
    };
    const Clamp clamps[] = {{0, infinity}, {0, 6}, {-1.5f, 0.25f}, {-infinity, infinity}, {3, 3}};
    for (const Shape& s : shapes)
      for (const pc_type x_type : {PC_F32, PC_U8, PC_S8})
        for (const pc_type w_type : {PC_S8, PC_U8})
          for (const pc_type y_type : {PC_F32, PC_U8, PC_S8})
            for (const bool given : {false, true})
              for (const bool bias : {false, true})
                for (const bool zero_points : {false, true})
                  for (pc_activation a = PC_ACTIVATION_NONE; a <= PC_ACTIVATION_GELU; ++a) {
                    if (!given && (x_type != PC_F32 || y_type != PC_F32)) continue;
                    if (kStride > 1 && ++count % kStride != 0) continue;
                    const Clamp clamp = clamps[random.integer(0, 4)];
                    check_last_step({s.m, s.n, s.k, x_type, w_type, y_type, given, bias, zero_points, a, clamp.low, clamp.high}, random);
                  }
    check_kernel("gemm_s8", isa);
  });
}

// The largest bias that the accumulators can start from, the next one, and those at the ends of int32, with the largest sums of both signs.
TEST(bias_at_the_limits) {
  for_each_isa([](const std::string&) {
    constexpr int64_t M = 29, N = 64, K = 64;
    const double room = 2147483647.0 - K * 255 * 128, most = std::floor(room / 128) * 128;  // floats of this size are multiples of 128
    for (const double size : {most, most + 128, 2147483520.0, 2147483648.0})
      for (const int sign : {-1, 1})
        for (const int32_t zero_point : {0, 255}) {
          std::vector<uint8_t> x(M * K);
          std::vector<int8_t> w(N * K);
          for (size_t i = 0; i < x.size(); ++i) x[i] = i / K % 2 ? 255 : 0;
          for (size_t i = 0; i < w.size(); ++i) w[i] = i / K % 2 ? 127 : -128;
          const std::vector<float> bias(N, static_cast<float>(sign * size));
          Aligned packed = pack_s8(w.data(), PC_S8, N, K, K, 1, nullptr);
          pc_gemm_s8_desc d{};
          d.size = sizeof d;
          d.m = M;
          d.n = N;
          d.k = K;
          d.x_type = PC_U8;
          d.y_type = PC_S8;
          d.x_scale = 1;
          d.y_scale = 16777216;
          d.x_zero_point = zero_point;
          d.bias = bias.data();
          std::vector<int8_t> y(M * N);
          CHECK_OK(run_s8(d, packed, x.data(), y.data()));
          for (size_t i = 0; i < M; ++i)
            for (size_t j = 0; j < N; ++j) {
              const int32_t acc = static_cast<int32_t>(K) * (x[i * K] - zero_point) * w[j * K];
              const int32_t wanted = reference::to_q8(acc, d, 1, bias.data());
              CHECK(y[i * N + j] == wanted, "[%zu, %zu], bias %g, zero point %d: got %d, wanted %d", i, j, sign * size, zero_point, y[i * N + j],
                    wanted);
            }
        }
  });
}

// Every result that a requantized byte can come from: far below and above int32, and at each bound of a clamp.
TEST(bytes_saturate) {
  for_each_isa([](const std::string&) {
    constexpr int64_t M = 26, N = 32, K = 4;
    Random random(21);
    std::vector<uint8_t> x(M * K);
    std::vector<int8_t> w(N * K);
    std::vector<float> scale(N);
    random.fill(x.data(), x.size());
    random.fill(w.data(), w.size());
    for (size_t j = 0; j < N; ++j) scale[j] = std::ldexp(1.0f, static_cast<int>(j) * 4 - 20);
    Aligned packed = pack_s8(w.data(), PC_S8, N, K, K, 1, scale.data());
    for (const pc_type y_type : {PC_U8, PC_S8})
      for (const bool clamp : {false, true})
        for (int32_t zero_point = reference::limits_of(y_type).low; zero_point <= reference::limits_of(y_type).high; zero_point += 51) {
          pc_gemm_s8_desc d{};
          d.size = sizeof d;
          d.m = M;
          d.n = N;
          d.k = K;
          d.x_type = PC_U8;
          d.y_type = y_type;
          d.x_scale = 1;
          d.x_zero_point = 128;
          d.y_scale = 0.5f;
          d.y_zero_point = zero_point;
          d.activation = clamp ? PC_ACTIVATION_CLAMP : PC_ACTIVATION_NONE;
          d.low = -20;
          d.high = 30;
          std::vector<uint8_t> y(M * N);
          CHECK_OK(run_s8(d, packed, x.data(), y.data()));
          for (size_t i = 0; i < M; ++i)
            for (size_t j = 0; j < N; ++j) {
              int32_t acc = 0;
              for (size_t k = 0; k < K; ++k) acc += (x[i * K + k] - 128) * w[j * K + k];
              const int32_t wanted = reference::to_q8(acc, d, scale[j], nullptr), got = value(y.data(), y_type, static_cast<int64_t>(i * N + j));
              CHECK(got == wanted, "[%zu, %zu], zero point %d: got %d, wanted %d", i, j, zero_point, got, wanted);
            }
        }
  });
}

// x.5 before rounding, in every residue: acc * mult is acc / 2 exactly.
TEST(requantization_rounds_half_to_even) {
  for_each_isa([](const std::string&) {
    uint8_t x[256], y[256];
    const int8_t w[1] = {1};
    for (int i = 0; i < 256; ++i) x[i] = static_cast<uint8_t>(i);
    Aligned packed = pack_s8(w, PC_S8, 1, 1, 1, 1, nullptr);
    pc_gemm_s8_desc d{};
    d.size = sizeof d;
    d.m = 256;
    d.n = 1;
    d.k = 1;
    d.x_type = PC_U8;
    d.y_type = PC_U8;
    d.x_scale = 0.5f;
    d.y_scale = 1;
    d.y_zero_point = 3;
    CHECK_OK(run_s8(d, packed, x, y));
    for (int i = 0; i < 256; ++i) {
      const int wanted = i / 2 + (i % 4 == 3) + 3;
      CHECK(y[i] == wanted, "%d / 2: got %d, wanted %d", i, y[i], wanted);
    }
  });
}

// A row's result does not depend on the rows beside it, and parts give the same bits as the whole.
TEST(rows_and_parts_are_independent) {
  for_each_isa([](const std::string&) {
    constexpr int64_t M = 61, N = 83, K = 130;
    Random random(5);
    std::vector<float> x(M * K), bias(N), whole(M * N), y(M * N);
    std::vector<int8_t> w(N * K);
    for (float& v : x) v = random.real(-1, 2);
    for (float& v : bias) v = random.real(-1, 1);
    random.fill(w.data(), w.size());
    Aligned packed = pack_s8(w.data(), PC_S8, N, K, K, 1, nullptr);
    pc_gemm_s8_desc d{};
    d.size = sizeof d;
    d.m = M;
    d.n = N;
    d.k = K;
    d.x_type = PC_F32;
    d.y_type = PC_F32;
    d.bias = bias.data();
    d.activation = PC_ACTIVATION_GELU;
    CHECK_OK(run_s8(d, packed, x.data(), whole.data()));
    for (const int32_t nth : {2, 3, 7, 16, 64}) {
      std::fill(y.begin(), y.end(), -1.0f);
      CHECK_OK(run_s8(d, packed, x.data(), y.data(), nth));
      CHECK(std::memcmp(y.data(), whole.data(), y.size() * 4) == 0, "nth %d", nth);
    }
    d.m = 1;
    for (int64_t i = 0; i < M; ++i) {
      CHECK_OK(run_s8(d, packed, &x[static_cast<size_t>(i * K)], y.data()));
      CHECK(std::memcmp(y.data(), &whole[static_cast<size_t>(i * N)], N * 4) == 0, "row %lld alone", static_cast<long long>(i));
    }
  });
}

// A weight as columns, and one packed for another instruction set than the active one.
TEST(weight_strides_and_packed_elsewhere) {
  for_each_isa([](const std::string& isa) {
    constexpr int64_t M = 9, N = 37, K = 21;
    Random random(3);
    std::vector<uint8_t> x(M * K), w(N * K), columns(N * K);
    random.fill(x.data(), x.size());
    random.fill(w.data(), w.size());
    for (int64_t i = 0; i < N; ++i)
      for (int64_t j = 0; j < K; ++j) columns[static_cast<size_t>(j * N + i)] = w[static_cast<size_t>(i * K + j)];
    Aligned packed = pack_s8(w.data(), PC_S8, N, K, K, 1, nullptr), from_columns = pack_s8(columns.data(), PC_S8, N, K, 1, N, nullptr);
    CHECK(std::memcmp(packed.data(), from_columns.data(), packed.bytes()) == 0);
    int64_t n = 0, k = 0;
    const char* kernel = "";
    CHECK_OK(pc_gemm_s8_packed_info(packed.data(), packed.bytes(), &n, &k, &kernel));
    CHECK(n == N && k == K && (kernel == "gemm_s8/" + isa || kernel == "gemm_s8_split/" + isa), "%s", kernel);
    pc_gemm_s8_desc d{};
    d.size = sizeof d;
    d.m = M;
    d.n = N;
    d.k = K;
    d.x_type = PC_S8;
    d.y_type = PC_S32;
    d.x_zero_point = -7;
    std::vector<int32_t> wanted(M * N), y(M * N);
    CHECK_OK(run_s8(d, packed, x.data(), wanted.data()));
    for (int32_t i = 0; i < pc_isa_count(); ++i) {
      if (!pc_isa_usable(i)) continue;
      CHECK_OK(pc_set_isa(pc_isa_name(i)));
      std::fill(y.begin(), y.end(), -1);
      CHECK_OK(run_s8(d, packed, x.data(), y.data()));
      CHECK(y == wanted, "packed for %s, run with %s", isa.c_str(), pc_isa_name(i));
    }
    CHECK_OK(pc_set_isa(isa.c_str()));
  });
}

}  // namespace
