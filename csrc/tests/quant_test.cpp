// The quant family against reference.h, on every instruction set: halves, infinities, NaN, denormals, large values, runs of every length.
#include <algorithm>

#include "reference.h"
#include "test.h"

using namespace test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kLongestRun = 100;

// Finite values that have gone wrong somewhere: halves, neighbours of halves, denormals, the largest.
std::vector<float> difficult_values() {
  std::vector<float> values = {0.0f,           -0.0f,         1e-45f,         -1e-45f, 1.17549435e-38f, -1e-40f, 3.4028235e38f,
                               -3.4028235e38f, 2147483648.0f, -2147483648.0f, 1e10f};
  for (int i = -600; i <= 600; ++i) {
    const float half = static_cast<float>(i) * 0.5f;
    values.push_back(half);
    values.push_back(std::nextafterf(half, kInfinity));
    values.push_back(std::nextafterf(half, -kInfinity));
  }
  Random random(9);
  while (values.size() % 100 != 0) values.push_back(random.real(-300, 300));
  return values;
}

pc_quant_desc desc_of(int64_t outer, int64_t channels, int64_t inner, pc_type type, const float* scale, const int32_t* zero_point) {
  pc_quant_desc d{};
  d.size = sizeof d;
  d.outer = outer;
  d.channels = channels;
  d.inner = inner;
  d.q_type = type;
  d.scale = scale;
  d.zero_point = zero_point;
  return d;
}

int32_t byte_as(pc_type type, uint8_t byte) { return type == PC_U8 ? byte : static_cast<int8_t>(byte); }

TEST(quantize_difficult_values) {
  for_each_isa([](const std::string& isa) {
    std::vector<float> x = difficult_values();
    x.push_back(kInfinity);
    x.push_back(-kInfinity);
    std::vector<uint8_t> y(x.size());
    for (const pc_type type : {PC_U8, PC_S8}) {
      const reference::Limits limits = reference::limits_of(type);
      for (const float scale : {1.0f, 0.5f, 3.0f, 1e-30f, 1e30f, 1e-45f, 0.0078431377f})
        for (const int32_t zero_point : {limits.low, 0, 1, limits.high}) {
          const pc_quant_desc d = desc_of(1, 1, static_cast<int64_t>(x.size()), type, &scale, &zero_point);
          CHECK_OK(pc_quantize_linear_run(&d, x.data(), y.data(), 0, 1));
          for (size_t i = 0; i < x.size(); ++i) {
            const int32_t wanted = reference::quantize(x[i], scale, zero_point, limits), got = byte_as(type, y[i]);
            CHECK(got == wanted, "%a / %a + %d: got %d, wanted %d", static_cast<double>(x[i]), static_cast<double>(scale), zero_point, got, wanted);
          }
        }
    }
    check_kernel("quant", isa);
  });
}

TEST(run_lengths) {
  for_each_isa([](const std::string&) {
    Random random(3);
    float x[kLongestRun + 1], back[kLongestRun + 1];
    uint8_t y[kLongestRun + 1];
    const float scale = 0.37f;
    const int32_t zero_point = 5;
    for (int64_t count = 0; count <= kLongestRun; ++count)
      for (const pc_type type : {PC_U8, PC_S8}) {
        for (float& v : x) v = random.real(-60, 60);
        std::fill(std::begin(y), std::end(y), uint8_t{0xa5});
        std::fill(std::begin(back), std::end(back), 777.0f);
        const pc_quant_desc d = desc_of(1, 1, count, type, &scale, &zero_point);
        CHECK_OK(pc_quantize_linear_run(&d, x, y, 0, 1));
        CHECK_OK(pc_dequantize_linear_run(&d, y, back, 0, 1));
        for (int64_t i = 0; i < count; ++i) {
          CHECK(byte_as(type, y[i]) == reference::quantize(x[i], scale, zero_point, reference::limits_of(type)));
          CHECK(same_bits(back[i], reference::dequantize(byte_as(type, y[i]), scale, zero_point)));
        }
        CHECK(y[count] == 0xa5 && back[count] == 777.0f, "wrote beyond %lld", static_cast<long long>(count));
      }
  });
}

TEST(nan_in_every_lane) {
  for_each_isa([](const std::string&) {
    const float scale = 1;
    for (const int64_t count : {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 65})
      for (int64_t lane = 0; lane < count; ++lane) {
        std::vector<float> x(static_cast<size_t>(count), 1.0f);
        std::vector<uint8_t> y(x.size());
        float range[2], row_scale;
        int32_t zero_point;
        const pc_quant_desc d = desc_of(1, 1, count, PC_U8, &scale, nullptr);
        for (const float bad : {kNan, kInfinity, -kInfinity}) {
          x[static_cast<size_t>(lane)] = bad;
          CHECK_STATUS(bad != bad ? PC_ERROR_NONFINITE : PC_OK, pc_quantize_linear_run(&d, x.data(), y.data(), 0, 1));
          CHECK_STATUS(PC_ERROR_NONFINITE, pc_range_run(x.data(), count, range, 0, 1));
          CHECK_STATUS(PC_ERROR_NONFINITE, pc_quantize_rows_run(x.data(), 1, count, 0, y.data(), 0, &row_scale, &zero_point, 0, 1));
        }
      }
  });
}

TEST(channels_and_parts) {
  for_each_isa([](const std::string&) {
    Random random(8);
    for (const int64_t outer : {1, 3})
      for (const int64_t channels : {1, 2, 7})
        for (const int64_t inner : {1, 5, 16, 67}) {
          const size_t count = static_cast<size_t>(outer * channels * inner);
          std::vector<float> scale(static_cast<size_t>(channels)), x(count), back(count);
          std::vector<int32_t> zero_point(scale.size());
          for (float& s : scale) s = random.real(0.01f, 2);
          for (int32_t& z : zero_point) z = static_cast<int32_t>(random.integer(0, 127));
          for (float& v : x) v = random.real(-100, 100);
          for (const pc_type type : {PC_U8, PC_S8})
            for (const int32_t nth : {1, 2, 3, 7}) {
              std::vector<uint8_t> y(count, 0xa5);
              const pc_quant_desc d = desc_of(outer, channels, inner, type, scale.data(), zero_point.data());
              for (int32_t ith = nth; ith-- > 0;) CHECK_OK(pc_quantize_linear_run(&d, x.data(), y.data(), ith, nth));
              for (int32_t ith = nth; ith-- > 0;) CHECK_OK(pc_dequantize_linear_run(&d, y.data(), back.data(), ith, nth));
              for (size_t i = 0; i < count; ++i) {
                const size_t c = i / static_cast<size_t>(inner) % static_cast<size_t>(channels);
                CHECK(byte_as(type, y[i]) == reference::quantize(x[i], scale[c], zero_point[c], reference::limits_of(type)));
                CHECK(same_bits(back[i], reference::dequantize(byte_as(type, y[i]), scale[c], zero_point[c])));
              }
            }
        }
  });
}

TEST(dequantize_int32) {
  for_each_isa([](const std::string&) {
    const float scale = 0.123f;
    const int32_t zero_point = 0;
    std::vector<int32_t> x = {0, 1, -1, INT32_MAX, INT32_MIN, 16777217, -16777217, 16777219, 33554433};
    Random random(4);
    while (x.size() < kLongestRun) x.push_back(static_cast<int32_t>(random.bits()));
    for (size_t count = 0; count <= x.size(); ++count) {
      std::vector<float> y(x.size() + 1, 777.0f);
      const pc_quant_desc d = desc_of(1, 1, static_cast<int64_t>(count), PC_S32, &scale, &zero_point);
      CHECK_OK(pc_dequantize_linear_run(&d, x.data(), y.data(), 0, 1));
      for (size_t i = 0; i < count; ++i) CHECK(same_bits(y[i], reference::dequantize(x[i], scale, 0)));
      CHECK(y[count] == 777.0f);
    }
  });
}

TEST(range_and_dynamic_qparams) {
  for_each_isa([](const std::string&) {
    Random random(5);
    for (int64_t count = 0; count <= kLongestRun; ++count)
      for (const float offset : {-3.0f, 0.0f, 3.0f})
        for (const int32_t nth : {1, 2, 3, 7}) {
          std::vector<float> x(static_cast<size_t>(count));
          for (float& v : x) v = random.real(-2, 2) + offset;
          float range[14], low = 0, high = 0, got_low = 0, got_high = 0, scale = 0;
          int32_t zero_point = -1;
          for (const float v : x) {
            low = std::min(low, v);
            high = std::max(high, v);
          }
          for (int32_t ith = nth; ith-- > 0;) CHECK_OK(pc_range_run(x.data(), count, range, ith, nth));
          for (int32_t i = 0; i < nth; ++i) {
            got_low = std::min(got_low, range[2 * i]);
            got_high = std::max(got_high, range[2 * i + 1]);
          }
          CHECK(got_low == low && got_high == high);
          CHECK_OK(pc_dynamic_qparams(range, nth, &scale, &zero_point));
          const reference::QParams wanted = reference::dynamic_qparams(low, high, false);
          CHECK(same_bits(scale, wanted.scale) && zero_point == wanted.zero_point);
        }
  });
}

TEST(dynamic_qparams_at_the_edges) {
  struct Row {
    float low, high;
    pc_status status;
  };
  const Row rows[] = {{0, 0, PC_OK},
                      {-0.0f, 0, PC_OK},
                      {0, 1e-45f, PC_OK},
                      {-1e-40f, 1e-40f, PC_OK},
                      {0, 1e-36f, PC_OK},
                      {-1, 0, PC_OK},
                      {0, 1, PC_OK},
                      {-1, 254, PC_OK},
                      {-0.5f, 254.5f, PC_OK},  // a zero point of one half
                      {-1.5f, 253.5f, PC_OK},
                      {-3e38f, 1, PC_OK},
                      {-3e38f, 3e38f, PC_ERROR_VALUE},
                      {0, kInfinity, PC_ERROR_NONFINITE},
                      {kNan, 0, PC_ERROR_NONFINITE}};
  for (const Row& r : rows) {
    const float range[2] = {r.low, r.high};
    float scale = 0;
    int32_t zero_point = -1;
    at("range %g to %g", static_cast<double>(r.low), static_cast<double>(r.high));
    CHECK_STATUS(r.status, pc_dynamic_qparams(range, 1, &scale, &zero_point));
    if (r.status != PC_OK) continue;
    const reference::QParams wanted = reference::dynamic_qparams(r.low, r.high, false);
    CHECK(same_bits(scale, wanted.scale) && zero_point == wanted.zero_point, "got %a and %d, wanted %a and %d", static_cast<double>(scale),
          zero_point, static_cast<double>(wanted.scale), wanted.zero_point);
  }
  at("%s", "");
}

TEST(quantize_rows) {
  for_each_isa([](const std::string&) {
    Random random(10);
    const float magnitudes[] = {1, 1e-45f, 1e-39f, 7.4e-37f, 7.6e-37f, 1e-30f, 1e30f, 1.6e38f, 0};
    constexpr int64_t m = 18;
    for (int64_t k = 0; k <= kLongestRun; k += k < 34 ? 1 : 11) {
      const int64_t ldx = k + 1, ldy = k + 3;
      std::vector<float> x(static_cast<size_t>(m * ldx)), scale(m);
      std::vector<int32_t> zero_point(m);
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < ldx; ++j) x[static_cast<size_t>(i * ldx + j)] = random.real(i % 2 ? 0 : -1, 1) * magnitudes[i / 2];
      for (const int32_t nth : {1, 2, 3, 7}) {
        std::vector<uint8_t> y(static_cast<size_t>(m * ldy), 0xa5);
        for (int32_t ith = nth; ith-- > 0;)
          CHECK_OK(pc_quantize_rows_run(x.data(), m, k, ldx, y.data(), ldy, scale.data(), zero_point.data(), ith, nth));
        for (int64_t i = 0; i < m; ++i) {
          const float* row = &x[static_cast<size_t>(i * ldx)];
          const reference::QParams wanted = reference::row_qparams(row, k);
          CHECK(same_bits(scale[static_cast<size_t>(i)], wanted.scale) && zero_point[static_cast<size_t>(i)] == wanted.zero_point);
          const float inverse = 1.0f / wanted.scale;
          for (int64_t j = 0; j < ldy; ++j) {
            const int32_t q = j < k ? reference::rounded(row[j] * inverse, wanted.zero_point, {0, 255}) : 0xa5;
            const uint8_t got = y[static_cast<size_t>(i * ldy + j)];
            CHECK(got == q, "row %lld, column %lld of %lld: got %d, wanted %d", static_cast<long long>(i), static_cast<long long>(j),
                  static_cast<long long>(k), got, q);
          }
        }
      }
    }
  });
}

}  // namespace
