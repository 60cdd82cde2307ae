// gemm_f32: against float64 within the error bound of a sum, and to the bit against the same sum in the same order, on every instruction set.
#include "gemm.h"
#include "reference.h"

using namespace test;

namespace {

// One output as docs/exactness.md has it: one accumulator, k in order, fused where the instruction set has FMA.
float in_order(const float* x, const float* w, int64_t ldk, int64_t k, bool fused) {
  float acc = 0;
  for (int64_t i = 0; i < k; ++i) acc = fused ? std::fma(x[i], w[i * ldk], acc) : acc + x[i] * w[i * ldk];
  return acc;
}

bool has_fma(const std::string& isa) { return isa != "scalar" && isa != "avx512vnni_simde"; }

struct Shape {
  int64_t m, n, k;
};

struct Operands {
  std::vector<float> x, w, bias;
  int64_t ldx, ldn, ldk;

  // columns: w is stored [k, n], with a gap between its rows.
  Operands(const Shape& s, bool columns, Random& random)
      : x(static_cast<size_t>(s.m * (s.k + 2))),
        w(static_cast<size_t>((s.n + 3) * (s.k + 3))),
        bias(static_cast<size_t>(s.n)),
        ldx(s.k + 2),
        ldn(columns ? 1 : s.k + 3),
        ldk(columns ? s.n + 3 : 1) {
    for (std::vector<float>* v : {&x, &w, &bias})
      for (float& f : *v) f = random.real(-1, 1);
  }

  pc_gemm_f32_desc desc(const Shape& s) const {
    pc_gemm_f32_desc d{};
    d.size = sizeof d;
    d.m = s.m;
    d.n = s.n;
    d.k = s.k;
    d.ldx = ldx;
    d.ldn = ldn;
    d.ldk = ldk;
    return d;
  }
};

void check_shape(const Shape& s, bool columns, bool with_bias, pc_activation activation, bool fused, Random& random) {
  const Operands o(s, columns, random);
  pc_gemm_f32_desc d = o.desc(s);
  constexpr int64_t gap = 3;
  d.ldy = s.n + gap;
  d.bias = with_bias ? o.bias.data() : nullptr;
  d.activation = activation;
  d.low = -0.25f;
  d.high = 1;
  std::vector<float> y(static_cast<size_t>(s.m * d.ldy), 777.0f), from_packed = y;
  Aligned packed = pack_f32(o.w.data(), s.n, s.k, o.ldn, o.ldk);
  CHECK_OK(run_f32(d, o.w.data(), nullptr, o.x.data(), y.data()));
  CHECK_OK(run_f32(d, nullptr, &packed, o.x.data(), from_packed.data()));
  CHECK(std::memcmp(y.data(), from_packed.data(), y.size() * 4) == 0, "packed and plain differ: %lld x %lld x %lld", static_cast<long long>(s.m),
        static_cast<long long>(s.n), static_cast<long long>(s.k));
  int wrong = 0;
  for (int64_t i = 0; i < s.m; ++i) {
    const float* row = &o.x[static_cast<size_t>(i * o.ldx)];
    for (int64_t j = 0; j < s.n; ++j) {
      const float* column = &o.w[static_cast<size_t>(j * o.ldn)];
      float wanted = in_order(row, column, o.ldk, s.k, fused);
      double exact = 0, magnitude = 0;
      for (int64_t l = 0; l < s.k; ++l) {
        const double product = static_cast<double>(row[l]) * static_cast<double>(column[l * o.ldk]);
        exact += product;
        magnitude += std::fabs(product);
      }
      CHECK(std::fabs(static_cast<double>(wanted) - exact) <= static_cast<double>(s.k + 1) * 0x1p-24 * magnitude, "the reference itself is off");
      if (with_bias) wanted = wanted + o.bias[static_cast<size_t>(j)];
      wanted = reference::activate(activation, wanted, d.low, d.high);
      wrong += !same_bits(y[static_cast<size_t>(i * d.ldy + j)], wanted);
    }
    for (int64_t j = s.n; j < d.ldy; ++j) wrong += y[static_cast<size_t>(i * d.ldy + j)] != 777.0f;
  }
  CHECK(wrong == 0, "%d values wrong: %lld x %lld x %lld, columns %d, bias %d, activation %d", wrong, static_cast<long long>(s.m),
        static_cast<long long>(s.n), static_cast<long long>(s.k), columns, with_bias, activation);
}

// All m and n to 33 for a few k, then all k.
TEST(all_small_shapes) {
  for_each_isa([](const std::string& isa) {
    Random random(2);
    const std::vector<int> sizes = sizes_to(33);
    for (const int64_t m : sizes)
      for (const int64_t n : sizes)
        for (const int64_t k : {1, 3, 16})
          check_shape({m, n, k}, n % 2 == 0, m % 2 == 0, static_cast<pc_activation>((m + n) % 5), has_fma(isa), random);
    for (int64_t k = 1; k <= 33; ++k)
      for (const int64_t m : {1, 5, 13})
        for (const int64_t n : {1, 16, 31, 33})
          for (const bool columns : {false, true}) check_shape({m, n, k}, columns, true, PC_ACTIVATION_NONE, has_fma(isa), random);
    check_kernel("gemm_f32", isa);
  });
}

// A plain weight whose rows are contiguous takes another kernel for a few rows of x: the same bits (see all_small_shapes) by another way.
TEST(which_kernel_ran) {
  for_each_isa([](const std::string& isa) {
    const std::vector<float> x(20 * 3, 1.0f), w(5 * 3, 1.0f);
    std::vector<float> y(20 * 5);
    pc_gemm_f32_desc d{};
    d.size = sizeof d;
    d.n = 5;
    d.k = 3;
    Aligned packed = pack_f32(w.data(), d.n, d.k, d.k, 1);
    for (const int64_t m : {1, 20}) {
      d.m = m;
      CHECK_OK(run_f32(d, w.data(), nullptr, x.data(), y.data()));
      check_kernel(m == 1 ? "gemm_f32_few" : "gemm_f32", isa);
      CHECK_OK(run_f32(d, nullptr, &packed, x.data(), y.data()));
      check_kernel("gemm_f32", isa);
    }
  });
}

// Past the blocks of k, of rows, and of panels.
TEST(blocks) {
  for_each_isa([](const std::string& isa) {
    Random random(4);
    const Shape shapes[] = {{33, 17, 384}, {33, 17, 385},  {40, 33, 1153}, {2, 5, 4096},  {3, 35, 4097},
                            {199, 65, 50}, {205, 1600, 7}, {270, 1600, 7}, {265, 35, 800}};
    for (const Shape& s : shapes)
      for (const bool columns : {false, true}) check_shape(s, columns, true, PC_ACTIVATION_SILU, has_fma(isa), random);
  });
}

TEST(k_of_zero_leaves_bias_and_activation) {
  for_each_isa([](const std::string&) {
    const float bias[5] = {-1, 2, 3, -4, 5};
    float y[10];
    pc_gemm_f32_desc d{};
    d.size = sizeof d;
    d.m = 2;
    d.n = 5;
    d.bias = bias;
    d.activation = PC_ACTIVATION_CLAMP;
    d.high = 4;
    CHECK_OK(run_f32(d, nullptr, nullptr, nullptr, y));
    for (int i = 0; i < 10; ++i) CHECK(y[i] == reference::clamp(bias[i % 5], 0, 4));
    d.m = 0;
    CHECK_OK(run_f32(d, nullptr, nullptr, nullptr, nullptr));
  });
}

TEST(rows_parts_and_repeats_give_the_same_bits) {
  for_each_isa([](const std::string&) {
    Random random(6);
    for (const Shape& s : {Shape{61, 83, 130}, Shape{45, 1700, 400}, Shape{280, 70, 400}}) {
      const Operands o(s, false, random);
      pc_gemm_f32_desc d = o.desc(s);
      d.bias = o.bias.data();
      d.activation = PC_ACTIVATION_GELU;
      Aligned packed = pack_f32(o.w.data(), s.n, s.k, o.ldn, o.ldk);
      std::vector<float> whole(static_cast<size_t>(s.m * s.n)), y(whole.size());
      CHECK_OK(run_f32(d, nullptr, &packed, o.x.data(), whole.data()));
      for (const int32_t nth : {1, 2, 3, 7, 16, 64})
        for (const bool plain : {false, true}) {
          std::fill(y.begin(), y.end(), -1.0f);
          CHECK_OK(run_f32(d, o.w.data(), plain ? nullptr : &packed, o.x.data(), y.data(), nth));
          CHECK(std::memcmp(y.data(), whole.data(), y.size() * 4) == 0, "nth %d, %s", nth, plain ? "plain" : "packed");
        }
      d.m = 1;
      for (int64_t i = 0; i < s.m; i += kStride) {
        CHECK_OK(run_f32(d, nullptr, &packed, &o.x[static_cast<size_t>(i * o.ldx)], y.data()));
        CHECK(std::memcmp(y.data(), &whole[static_cast<size_t>(i * s.n)], static_cast<size_t>(s.n) * 4) == 0, "row %lld alone",
              static_cast<long long>(i));
      }
    }
  });
}

TEST(special_values_pass_through) {
  for_each_isa([](const std::string&) {
    const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    const float w[3] = {1, 1, 1};
    for (const float special : {infinity, -infinity, nan, 1e-40f, 3e38f, -0.0f})
      for (const pc_activation activation : {PC_ACTIVATION_NONE, PC_ACTIVATION_CLAMP}) {
        const float x[1] = {special};
        float y[3];
        pc_gemm_f32_desc d{};
        d.size = sizeof d;
        d.m = 1;
        d.n = 3;
        d.k = 1;
        d.activation = activation;
        d.high = 6;
        CHECK_OK(run_f32(d, w, nullptr, x, y));
        for (const float got : y)
          CHECK(same_bits(got, reference::activate(activation, 0 + special * 1, 0, 6)), "%a gave %a", static_cast<double>(special),
                static_cast<double>(got));
      }
  });
}

// ---- float16

// The value of a float16, as IEEE 754 has it.
float value_of(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const float magnitude = exponent == 0    ? std::ldexp(static_cast<float>(mantissa), -24)
                          : exponent == 31 ? mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity()
                                           : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

// Every float16, infinities and NaN among them, in every lane.
TEST(every_float16) {
  for_each_isa([](const std::string& isa) {
    constexpr int64_t n = 1 << 16;
    std::vector<uint16_t> w(n);
    for (int64_t i = 0; i < n; ++i) w[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
    for (int64_t first = 0; first < 4; ++first) {  // rows of x: tiles of several panels, and of one
      const float x[8] = {1, 1, 1, 1, 1, 1, 1, 1};
      pc_gemm_f32_desc d{};
      d.size = sizeof d;
      d.m = 2 * first + 1;
      d.n = n - first;
      d.k = 1;
      Aligned packed = pack_f16(w.data() + first, d.n, 1, 1, 1);
      std::vector<float> y(static_cast<size_t>(d.m * d.n));
      CHECK_OK(run_f32(d, nullptr, &packed, x, y.data()));
      check_kernel("gemm_f16", isa);
      int wrong = 0;
      for (int64_t i = 0; i < d.m * d.n; ++i) wrong += !same_bits(y[static_cast<size_t>(i)], value_of(static_cast<uint16_t>(first + i % d.n)) + 0.0f);
      CHECK(wrong == 0, "%d values wrong, %lld rows", wrong, static_cast<long long>(d.m));
    }
  });
}

// The bits of the float32 weight of the same values, which other tests compare with the sum in order.
TEST(float16_as_float32) {
  for_each_isa([](const std::string&) {
    Random random(9);
    std::vector<Shape> shapes = {{1, 200, 5000}, {3, 100, 1001}, {40, 70, 385}, {300, 65, 400}, {5, 129, 4097}};
    for (const int m : sizes_to(26))
      for (const int64_t n : {1, 15, 31, 33, 64, 100, 127, 128, 129, 161})
        for (const int64_t k : {1, 7, 40}) shapes.push_back({m, n, k});
    for (const Shape& s : shapes)
      for (const bool columns : {false, true}) {
        Operands o(s, columns, random);
        std::vector<uint16_t> halves(o.w.size());
        for (size_t i = 0; i < halves.size(); ++i) {
          halves[i] = static_cast<uint16_t>((random.bits() & 0x8fff) | 0x2000);
          o.w[i] = value_of(halves[i]);
        }
        pc_gemm_f32_desc d = o.desc(s);
        d.bias = o.bias.data();
        d.activation = static_cast<pc_activation>((s.m + s.n) % 5);
        d.low = -0.25f;
        d.high = 1;
        Aligned f16 = pack_f16(halves.data(), s.n, s.k, o.ldn, o.ldk), f32 = pack_f32(o.w.data(), s.n, s.k, o.ldn, o.ldk);
        std::vector<float> wanted(static_cast<size_t>(s.m * s.n)), y(wanted.size());
        CHECK_OK(run_f32(d, o.w.data(), nullptr, o.x.data(), wanted.data()));
        for (Aligned* packed : {&f16, &f32})
          for (const int32_t nth : {1, 3}) {
            std::fill(y.begin(), y.end(), -1.0f);
            CHECK_OK(run_f32(d, nullptr, packed, o.x.data(), y.data(), nth));
            CHECK(std::memcmp(y.data(), wanted.data(), y.size() * 4) == 0, "%s, nth %d: %lld x %lld x %lld", packed == &f16 ? "float16" : "float32",
                  nth, static_cast<long long>(s.m), static_cast<long long>(s.n), static_cast<long long>(s.k));
          }
      }
  });
}

}  // namespace
