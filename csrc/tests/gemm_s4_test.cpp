// gemm_s4: each group's integers against int64 sums and the float32 sums over groups, to the bit, on every instruction set.
#include "gemm.h"
#include "reference.h"

using namespace test;

namespace {

int32_t nibble(const std::vector<uint8_t>& w, int64_t row_bytes, int64_t i, int64_t j) {
  const int u = w[static_cast<size_t>(i * row_bytes + j / 2)] >> (j % 2 * 4) & 15;
  return u < 8 ? u : u - 16;
}

struct Weight {
  int64_t n, k, group, groups, row_bytes;
  std::vector<uint8_t> w;
  std::vector<float> scale;

  Weight(int64_t n_, int64_t k_, int64_t group_size, Random& random)
      : n(n_),
        k(k_),
        group(group_size ? group_size : std::max<int64_t>(k_, 1)),
        groups((k_ + group - 1) / group),
        row_bytes((k_ + 1) / 2),
        w(static_cast<size_t>(n_ * row_bytes)),
        scale(static_cast<size_t>(n_ * groups)) {
    random.fill(w.data(), w.size());
    for (float& s : scale) s = std::ldexp(random.real(0.5f, 1), static_cast<int>(random.integer(-9, 0)));
  }
  int32_t at(int64_t i, int64_t j) const { return nibble(w, row_bytes, i, j); }
  Aligned pack(int64_t group_size) const { return pack_s4(w.data(), n, k, group_size, scale.data()); }

  // docs/exactness.md: x less its zero point by this weight, before the scale of x.
  float sum(const int32_t* x, int64_t i) const {
    float total = 0;
    for (int64_t g = 0; g < groups; ++g) {
      int64_t acc = 0;
      for (int64_t j = g * group; j < std::min(k, (g + 1) * group); ++j) acc += static_cast<int64_t>(x[j]) * at(i, j);
      const float product = static_cast<float>(static_cast<int32_t>(acc)) * scale[static_cast<size_t>(i * groups + g)];
      total = total + product;
    }
    return total;
  }
};

pc_gemm_s4_desc desc_of(int64_t m, const Weight& weight) {
  pc_gemm_s4_desc d{};
  d.size = sizeof d;
  d.m = m;
  d.n = weight.n;
  d.k = weight.k;
  d.x_type = PC_U8;
  d.y_type = PC_F32;
  d.x_scale = 0.25f;
  return d;
}

void check(int64_t m, const Weight& weight, int64_t group_size, pc_type x_type, Random& random, int32_t nth = 1) {
  const size_t k = static_cast<size_t>(weight.k), n = static_cast<size_t>(weight.n), rows = static_cast<size_t>(m);
  std::vector<uint8_t> x(rows * k);
  random.fill(x.data(), x.size());
  pc_gemm_s4_desc d = desc_of(m, weight);
  d.x_type = x_type;
  d.x_zero_point = static_cast<int32_t>(x_type == PC_U8 ? random.integer(0, 255) : random.integer(-128, 127));
  d.ldy = weight.n + 3;
  std::vector<float> y(rows * static_cast<size_t>(d.ldy), 77.0f);
  Aligned packed = weight.pack(group_size);
  CHECK_OK(run_s4(d, packed, x.data(), y.data(), nth));
  std::vector<int32_t> row(k);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t j = 0; j < k; ++j) row[j] = (x_type == PC_U8 ? x[r * k + j] : static_cast<int8_t>(x[r * k + j])) - d.x_zero_point;
    for (size_t i = 0; i < n; ++i) {
      const float wanted = weight.sum(row.data(), static_cast<int64_t>(i)) * d.x_scale, got = y[r * (n + 3) + i];
      CHECK(same_bits(got, wanted), "[%zu, %zu] of %zu x %zu x %zu, groups of %d, x_type %d: got %a, wanted %a", r, i, rows, n, k,
            static_cast<int>(group_size), x_type, static_cast<double>(got), static_cast<double>(wanted));
    }
    for (size_t i = n; i < n + 3; ++i) CHECK(y[r * (n + 3) + i] == 77.0f, "the gap after row %zu was written", r);
  }
}

TEST(all_small_shapes) {
  for_each_isa([](const std::string& isa) {
    Random random(5);
    const std::vector<int> sizes = sizes_to(33);
    for (const int k : sizes)
      for (const int n : sizes) {
        const Weight weight(n, k, 32, random);
        for (const int m : sizes) check(m, weight, 32, m % 2 ? PC_U8 : PC_S8, random);
      }
    check_kernel("gemm_s4", isa);
  });
}

TEST(groups_and_parts) {
  for_each_isa([](const std::string& isa) {
    Random random(6);
    for (const int64_t group : {0, 32, 64, 96, 128, 1024})
      for (const int64_t k : {1, 31, 64, 95, 128, 129, 300, 513})
        for (const int64_t m : {1, 2, 3, 4, 5, 12, 29}) {
          const Weight weight(37, k, group, random);
          check(m, weight, group, PC_U8, random, m == 29 || m == 1 ? 3 : 1);
        }
    check_kernel("gemm_s4", isa);
  });
}

// Each of the 15 values of w (and -8) by each of the 256 of x, in every lane and at every place of a chunk.
TEST(every_pair_in_every_lane) {
  for_each_isa([](const std::string&) {
    constexpr int64_t n = 33, k = 32;
    Random random(7);
    Weight weight(n, k, 32, random);
    for (int shift = 0; shift < 16; ++shift) {
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < k / 2; ++j) {
          const int64_t low = (i + 2 * j + shift) % 16, high = (low + 1) % 16;
          weight.w[static_cast<size_t>(i * weight.row_bytes + j)] = static_cast<uint8_t>(low | high << 4);
        }
      Aligned packed = weight.pack(32);
      for (const int64_t m : {4, 12}) {
        pc_gemm_s4_desc d = desc_of(m, weight);
        for (int step = 0; step < 256 * 8; step += test::kStride) {
          const int value = step / 8, offset = step % 8;  // with 4 rows and 16 shifts: each w by each x at each place, in every lane
          std::vector<uint8_t> x(static_cast<size_t>(m * k));
          const auto place = [&](int64_t r) { return (offset + r * 8) % k; };
          for (int64_t r = 0; r < m; ++r) x[static_cast<size_t>(r * k + place(r))] = static_cast<uint8_t>(value);
          std::vector<float> y(static_cast<size_t>(m * n));
          CHECK_OK(run_s4(d, packed, x.data(), y.data()));
          int wrong = 0;
          for (int64_t r = 0; r < m; ++r)
            for (int64_t i = 0; i < n; ++i) {
              const float wanted = static_cast<float>(value * weight.at(i, place(r))) * weight.scale[static_cast<size_t>(i)] * d.x_scale;
              wrong += y[static_cast<size_t>(r * n + i)] != wanted;
            }
          CHECK(wrong == 0, "%d wrong: x %d, m %d, shift %d", wrong, value, static_cast<int>(m), shift);
        }
      }
    }
  });
}

// Every product the largest of its sign: what saturates or overflows on the way shows.
TEST(extremes) {
  for_each_isa([](const std::string&) {
    Random random(8);
    for (const int64_t k : {64, 1000, 4064, 4096, 1 << 19}) {  // to 4064 the sums of a group are int16
      Weight weight(2, k, 0, random);
      for (const uint8_t byte : {0x88, 0x77}) {
        std::fill(weight.w.begin(), weight.w.end(), byte);
        Aligned packed = weight.pack(0);
        for (const int64_t m : {1, 5})
          for (const int value : {0, 255})
            for (const int zero_point : {0, 255}) {
              const std::vector<uint8_t> x(static_cast<size_t>(m * k), static_cast<uint8_t>(value));
              std::vector<float> y(static_cast<size_t>(m * 2));
              pc_gemm_s4_desc d = desc_of(m, weight);
              d.x_zero_point = zero_point;
              CHECK_OK(run_s4(d, packed, x.data(), y.data()));
              for (int64_t i = 0; i < m * 2; ++i) {
                const float acc = static_cast<float>((value - zero_point) * weight.at(0, 0) * static_cast<int32_t>(k));
                CHECK(y[static_cast<size_t>(i)] == acc * weight.scale[static_cast<size_t>(i % 2)] * d.x_scale, "k %d, x %d - %d, w %d",
                      static_cast<int>(k), value, zero_point, weight.at(0, 0));
              }
            }
      }
    }
    size_t bytes;
    CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_s4_pack_size(1, (1 << 19) + 1, 32, &bytes));
  });
}

TEST(last_step) {
  for_each_isa([](const std::string& isa) {
    Random random(9);
    const float infinity = std::numeric_limits<float>::infinity();
    for (const int64_t m : {1, 3, 14})
      for (const int64_t k : {5, 70})
        for (const pc_type x_type : {PC_F32, PC_U8, PC_S8})
          for (const pc_type y_type : {PC_F32, PC_U8, PC_S8})
            for (const bool given : {false, true})
              for (const bool with_bias : {false, true})
                for (pc_activation a = PC_ACTIVATION_NONE; a <= PC_ACTIVATION_GELU; ++a) {
                  if (!given && (x_type != PC_F32 || y_type != PC_F32)) continue;
                  constexpr int64_t n = 37;
                  const Weight weight(n, k, 32, random);
                  std::vector<float> xf(static_cast<size_t>(m * k)), bias(n);
                  std::vector<uint8_t> x8(xf.size());
                  for (float& v : xf) v = random.real(-3, 5);
                  for (float& v : bias) v = random.real(-2, 2);
                  random.fill(x8.data(), x8.size());
                  pc_gemm_s4_desc d = desc_of(m, weight);
                  d.x_type = x_type;
                  d.y_type = y_type;
                  d.x_scale = given ? 0.037f : 0;
                  d.x_zero_point = x_type == PC_S8 ? -5 : 100;
                  d.bias = with_bias ? bias.data() : nullptr;
                  d.activation = a;
                  d.low = -1.5f;
                  d.high = random.integer(0, 1) ? infinity : 3;
                  const reference::Limits ly = reference::limits_of(y_type);
                  if (y_type != PC_F32) {
                    d.y_scale = 0.11f;
                    d.y_zero_point = static_cast<int32_t>(random.integer(ly.low, ly.high));
                  }
                  std::vector<uint8_t> y(static_cast<size_t>(m * n) * size_of(y_type));
                  Aligned packed = weight.pack(32);
                  CHECK_OK(run_s4(d, packed, x_type == PC_F32 ? static_cast<const void*>(xf.data()) : x8.data(), y.data()));
                  std::vector<int32_t> row(static_cast<size_t>(k));
                  for (int64_t r = 0; r < m; ++r) {
                    float scale = d.x_scale;
                    int32_t zero_point = d.x_zero_point;
                    if (!given) {
                      const reference::QParams q = reference::row_qparams(&xf[static_cast<size_t>(r * k)], k);
                      scale = q.scale;
                      zero_point = q.zero_point;
                    }
                    for (int64_t j = 0; j < k; ++j) {
                      const size_t at = static_cast<size_t>(r * k + j);
                      const int32_t q = x_type == PC_F32  ? reference::rounded(xf[at] * (1.0f / scale), zero_point, {0, 255})
                                        : x_type == PC_U8 ? x8[at]
                                                          : static_cast<int8_t>(x8[at]);
                      row[static_cast<size_t>(j)] = q - zero_point;
                    }
                    for (int64_t i = 0; i < n; ++i) {
                      float wanted = weight.sum(row.data(), i) * scale;
                      if (with_bias) wanted = wanted + bias[static_cast<size_t>(i)];
                      wanted = reference::activate(a, wanted, d.low, d.high);
                      const size_t at = static_cast<size_t>(r * n + i);
                      if (y_type == PC_F32) {
                        float got;
                        std::memcpy(&got, &y[at * 4], 4);
                        CHECK(same_bits(got, wanted), "activation %d: got %a, wanted %a", a, static_cast<double>(got), static_cast<double>(wanted));
                      } else {
                        const int32_t level = reference::quantize(wanted, d.y_scale, d.y_zero_point, ly);
                        const int32_t got = y_type == PC_U8 ? y[at] : static_cast<int8_t>(y[at]);
                        CHECK(got == level, "activation %d, y_type %d: got %d, wanted %d", a, y_type, got, level);
                      }
                    }
                  }
                }
    check_kernel("gemm_s4", isa);
  });
}

TEST(empty_sizes) {
  for_each_isa([](const std::string&) {
    Random random(10);
    for (const int64_t m : {0, 1, 7})
      for (const int64_t n : {0, 5})
        for (const int64_t k : {0, 7}) {
          const Weight weight(n, k, 32, random);
          const uint8_t x[49] = {1};
          const float bias[5] = {1, 2, 3, 4, 5};
          float y[35] = {};
          pc_gemm_s4_desc d = desc_of(m, weight);
          d.bias = bias;
          Aligned packed = weight.pack(32);
          CHECK_OK(run_s4(d, packed, x, y));
          for (int64_t i = 0; k == 0 && i < m * n; ++i) CHECK(y[i] == bias[i % n], "k = 0 leaves the bias");
        }
  });
}

// A weight packed by one instruction set runs on another of the same panels, or is refused; the bits are those of a weight packed there.
TEST(packed_elsewhere) {
  Random random(11);
  const Weight weight(40, 100, 32, random);
  std::vector<uint8_t> x(700);
  random.fill(x.data(), x.size());
  const pc_gemm_s4_desc d = desc_of(7, weight);
  std::vector<float> wanted(280), y(280);
  for (int32_t from = 0; from < pc_isa_count(); ++from) {
    if (!pc_isa_usable(from)) continue;
    CHECK_OK(pc_set_isa(pc_isa_name(from)));
    Aligned packed = weight.pack(32);
    CHECK_OK(run_s4(d, packed, x.data(), y.data()));
    if (from == 0) wanted = y;
    CHECK(y == wanted, "%s", pc_isa_name(from));
    for (int32_t to = 0; to < pc_isa_count(); ++to) {
      if (!pc_isa_usable(to)) continue;
      CHECK_OK(pc_set_isa(pc_isa_name(to)));
      std::fill(y.begin(), y.end(), 0.0f);
      CHECK_OK(run_s4(d, packed, x.data(), y.data()));
      CHECK(y == wanted, "packed by %s, run on %s", pc_isa_name(from), pc_isa_name(to));
    }
  }
  CHECK_OK(pc_set_isa(nullptr));
}

TEST(misuse) {
  Random random(12);
  const Weight weight(3, 40, 32, random);
  size_t bytes = 0;
  CHECK_STATUS(PC_ERROR_NULL, pc_gemm_s4_pack_size(3, 40, 32, nullptr));
  CHECK_STATUS(PC_ERROR_SHAPE, pc_gemm_s4_pack_size(-1, 40, 32, &bytes));
  CHECK_STATUS(PC_ERROR_VALUE, pc_gemm_s4_pack_size(3, 40, 33, &bytes));
  CHECK_STATUS(PC_ERROR_VALUE, pc_gemm_s4_pack_size(3, 40, -32, &bytes));
  size_t of_one_group = 0;
  CHECK_OK(pc_gemm_s4_pack_size(3, 40, 0, &of_one_group));
  CHECK_OK(pc_gemm_s4_pack_size(3, 40, INT64_MAX, &bytes));
  CHECK(bytes == of_one_group);
  CHECK_OK(pc_gemm_s4_pack_size(3, 40, 41, &bytes));  // at least k: one group
  CHECK_OK(pc_gemm_s4_pack_size(3, 40, 32, &bytes));
  Aligned packed(bytes);
  const auto pack = [&](const uint8_t* w, int64_t ldn, const float* scale, void* to, size_t size) {
    return pc_gemm_s4_pack(w, 3, 40, ldn, 32, scale, to, size);
  };
  const uint8_t* w = weight.w.data();
  CHECK_STATUS(PC_ERROR_NULL, pack(nullptr, 0, weight.scale.data(), packed.data(), bytes));
  CHECK_STATUS(PC_ERROR_NULL, pack(w, 0, nullptr, packed.data(), bytes));
  CHECK_STATUS(PC_ERROR_NULL, pack(w, 0, weight.scale.data(), nullptr, bytes));
  CHECK_STATUS(PC_ERROR_SHAPE, pack(w, 19, weight.scale.data(), packed.data(), bytes));
  CHECK_STATUS(PC_ERROR_BUFFER, pack(w, 0, weight.scale.data(), packed.data(), bytes - 1));
  CHECK_STATUS(PC_ERROR_ALIGNMENT, pack(w, 0, weight.scale.data(), packed.data() + 4, bytes));
  CHECK_STATUS(PC_ERROR_OVERLAP, pack(reinterpret_cast<const uint8_t*>(packed.data()), 0, weight.scale.data(), packed.data(), bytes));
  std::vector<float> scale = weight.scale;
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    scale[4] = bad;
    CHECK_STATUS(PC_ERROR_VALUE, pack(w, 0, scale.data(), packed.data(), bytes));
  }
  CHECK_OK(pack(w, 0, weight.scale.data(), packed.data(), bytes));

  const uint8_t x[80] = {};
  float y[6];
  const auto status = [&](auto change) {
    pc_gemm_s4_desc d = desc_of(2, weight);
    change(d);
    return run_s4(d, packed, x, y);
  };
  const auto infinity = std::numeric_limits<float>::infinity();
  CHECK_OK(status([](pc_gemm_s4_desc&) {}));
  CHECK_STATUS(PC_ERROR_STRUCT, status([](pc_gemm_s4_desc& d) { --d.size; }));
  CHECK_STATUS(PC_ERROR_SHAPE, status([](pc_gemm_s4_desc& d) { d.m = -1; }));
  CHECK_STATUS(PC_ERROR_SHAPE, status([](pc_gemm_s4_desc& d) { d.k = 39; }));
  CHECK_STATUS(PC_ERROR_SHAPE, status([](pc_gemm_s4_desc& d) { d.ldy = 2; }));
  CHECK_STATUS(PC_ERROR_TYPE, status([](pc_gemm_s4_desc& d) { d.x_type = PC_S32; }));
  CHECK_STATUS(PC_ERROR_TYPE, status([](pc_gemm_s4_desc& d) { d.y_type = PC_S32; }));
  CHECK_STATUS(PC_ERROR_VALUE, status([](pc_gemm_s4_desc& d) { d.x_scale = 0; }));
  CHECK_STATUS(PC_ERROR_VALUE, status([=](pc_gemm_s4_desc& d) { d.x_scale = infinity; }));
  CHECK_STATUS(PC_ERROR_VALUE, status([](pc_gemm_s4_desc& d) { d.x_zero_point = 256; }));
  CHECK_STATUS(PC_ERROR_VALUE, status([](pc_gemm_s4_desc& d) { d.y_type = PC_U8; }));
  CHECK_STATUS(PC_ERROR_VALUE, status([](pc_gemm_s4_desc& d) { d.activation = 5; }));
  CHECK_STATUS(PC_ERROR_FORMAT, [&] {
    Aligned other(bytes);
    return pc_gemm_s4_packed_info(other.data(), bytes, nullptr, nullptr, nullptr, nullptr);
  }());
  const float nan_bias[3] = {0, std::numeric_limits<float>::quiet_NaN(), 0};
  CHECK_STATUS(PC_ERROR_NONFINITE, status([&](pc_gemm_s4_desc& d) {
                 d.y_type = PC_U8;
                 d.y_scale = 1;
                 d.bias = nan_bias;
               }));
  pc_gemm_s4_desc d = desc_of(2, weight);
  size_t needed = 0;
  CHECK_OK(pc_gemm_s4_workspace_size(&d, packed.data(), bytes, 1, &needed));
  Aligned workspace(needed);
  CHECK_STATUS(PC_ERROR_BUFFER, pc_gemm_s4_run(&d, packed.data(), bytes, x, y, workspace.data(), needed - 1, 0, 1));
  CHECK_STATUS(PC_ERROR_VALUE, pc_gemm_s4_run(&d, packed.data(), bytes, x, y, workspace.data(), needed, 1, 1));
  CHECK_STATUS(PC_ERROR_OVERLAP, pc_gemm_s4_run(&d, packed.data(), bytes, x, packed.data(), workspace.data(), needed, 0, 1));
  CHECK_STATUS(PC_ERROR_NULL, pc_gemm_s4_run(&d, packed.data(), bytes, nullptr, y, workspace.data(), needed, 0, 1));
}

}  // namespace
