// spmm: int8 against int64, float32 to the bit against the same sum in the same order, last steps against reference.h; by rows and transposed, on
// every instruction set. And every misuse that the header names.
#include "sparse.h"

#include <algorithm>
#include <functional>

#include "reference.h"

using namespace test;

namespace {

struct Block {
  int64_t r, c;
};
const Block kBlocks[] = {{1, 1}, {1, 4}, {4, 1}, {8, 1}, {16, 1}, {4, 4}, {8, 8}, {16, 16}, {2, 3}, {3, 8}, {5, 2}, {1, 2}};

bool has_fma(const std::string& isa) { return isa != "scalar" && isa != "avx512vnni_simde"; }

void check_sparse_kernel(const char* family, const std::string& isa) {
  const bool inherits = std::strcmp(family, "sparse_f32") == 0 && (isa == "avxvnni" || isa == "avxvnni_vl");
  const std::string wanted = std::string(family) + "/" + (!inherits ? isa : isa == "avxvnni" ? "avx2" : "avx512vnni");
  CHECK(wanted == pc_last_kernel(), "ran %s, wanted %s", pc_last_kernel(), wanted.c_str());
}

// Element (row, column) of an array by rows or transposed, rows of it ld apart.
size_t index(bool transposed, int64_t row, int64_t column, int64_t ld) {
  return static_cast<size_t>(transposed ? column * ld + row : row * ld + column);
}

template <class T> void set_strides(pc_spmm_desc* d, bool transposed, int64_t gap) {
  d->x_transposed = d->y_transposed = transposed;
  d->ldx = (transposed ? d->m : d->k) + gap;
  d->ldy = (transposed ? d->m : d->n) + gap;
}

size_t elements(int64_t rows, int64_t ld) { return static_cast<size_t>(rows * ld + 1); }

void check_f32(int64_t m, const Sparse<float>& w, bool transposed, bool with_bias, pc_activation activation, bool fused, Random& random,
               int32_t nth = 1) {
  pc_spmm_desc d = sparse_desc(w, m);
  set_strides<float>(&d, transposed, 3);
  std::vector<float> x(elements(transposed ? w.k : m, d.ldx)), y(elements(transposed ? w.n : m, d.ldy), 777.0f), bias(static_cast<size_t>(w.n + 1));
  for (float& v : x) v = random.real(-1, 1);
  for (float& v : bias) v = random.real(-1, 1);
  d.bias = with_bias ? bias.data() : nullptr;
  d.activation = activation;
  d.low = -0.25f;
  d.high = 1;
  Aligned packed = pack_sparse(w.matrix());
  CHECK_OK(run_sparse(d, packed, x.data(), y.data(), nth));
  int wrong = 0;
  std::vector<bool> written(y.size());
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < w.n; ++j) {
      float acc = 0;
      for (int64_t l = 0; l < w.k; ++l) {
        const float value = w.at(j, l), v = x[index(transposed, i, l, d.ldx)];
        acc = fused ? std::fma(v, value, acc) : acc + v * value;
      }
      if (with_bias) acc = acc + bias[static_cast<size_t>(j)];
      const size_t at = index(transposed, i, j, d.ldy);
      wrong += !same_bits(y[at] + 0.0f, reference::activate(activation, acc, d.low, d.high) + 0.0f);
      written[at] = true;
    }
  for (size_t i = 0; i < y.size(); ++i) wrong += !written[i] && y[i] != 777.0f;
  CHECK(wrong == 0, "%d values wrong: %lld x %lld x %lld, blocks %lld x %lld, transposed %d, bias %d, activation %d", wrong,
        static_cast<long long>(m), static_cast<long long>(w.n), static_cast<long long>(w.k), static_cast<long long>(w.r), static_cast<long long>(w.c),
        transposed, with_bias, activation);
}

void check_s32(int64_t m, const Sparse<int8_t>& w, bool transposed, bool is_signed, int fill, Random& random, int32_t nth = 1) {
  pc_spmm_desc d = sparse_desc(w, m);
  set_strides<int8_t>(&d, transposed, 3);
  d.x_type = is_signed ? PC_S8 : PC_U8;
  d.x_zero_point = static_cast<int32_t>(is_signed ? random.integer(-128, 127) : random.integer(0, 255));
  std::vector<uint8_t> x(elements(transposed ? w.k : m, d.ldx), static_cast<uint8_t>(fill));
  if (fill < 0) random.fill(x.data(), x.size());
  std::vector<int32_t> y(elements(transposed ? w.n : m, d.ldy), 777);
  Aligned packed = pack_sparse(w.matrix());
  CHECK_OK(run_sparse(d, packed, x.data(), y.data(), nth));
  int wrong = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < w.n; ++j) {
      int64_t sum = 0;
      for (int64_t l = 0; l < w.k; ++l) {
        const uint8_t v = x[index(transposed, i, l, d.ldx)];
        sum += ((is_signed ? static_cast<int8_t>(v) : v) - d.x_zero_point) * w.at(j, l);
      }
      wrong += y[index(transposed, i, j, d.ldy)] != sum;
    }
  CHECK(wrong == 0, "%d values wrong: %lld x %lld x %lld, blocks %lld x %lld, transposed %d, signed %d", wrong, static_cast<long long>(m),
        static_cast<long long>(w.n), static_cast<long long>(w.k), static_cast<long long>(w.r), static_cast<long long>(w.c), transposed, is_signed);
}

TEST(shapes_f32) {
  for_each_isa([](const std::string& isa) {
    Random random(1);
    int turn = 0;
    for (const Block& b : kBlocks)
      for (const int64_t m : {1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 64, 65, 130})
        for (const int64_t n : {1, 5, 16, 33, 129})
          for (const int64_t k : {1, 3, 16, 50, 300}) {
            if (++turn % (3 * kStride) != 0 && !(m <= 2 && n == 33)) continue;
            const int zeros[] = {0, 50, 80, 95, 100};
            const auto w = Sparse<float>::random(n, k, b.r, b.c, zeros[turn % 5], random);
            check_f32(m, w, turn % 2, turn % 3, static_cast<pc_activation>(turn % 5), has_fma(isa), random);
            check_sparse_kernel("sparse_f32", isa);
          }
  });
}

TEST(shapes_s8) {
  for_each_isa([](const std::string& isa) {
    Random random(2);
    int turn = 0;
    for (const Block& b : kBlocks)
      for (const int64_t m : {1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 64, 65, 130})
        for (const int64_t n : {1, 5, 16, 33, 129})
          for (const int64_t k : {1, 3, 4, 50, 600}) {
            if (++turn % (3 * kStride) != 0 && !(m <= 2 && n == 33)) continue;
            const int zeros[] = {0, 50, 80, 95, 100};
            const auto w = Sparse<int8_t>::random(n, k, b.r, b.c, zeros[turn % 5], random);
            check_s32(m, w, turn % 2, turn % 3 == 0, turn % 4 ? -1 : 255, random);
            check_sparse_kernel("sparse_s8", isa);
          }
  });
}

// Past blocks of k, chunks of outputs and panels of rows; parts, more of them than there is work.
TEST(parts) {
  for_each_isa([](const std::string& isa) {
    Random random(3);
    for (const Block& b : {Block{1, 1}, Block{4, 1}, Block{1, 4}, Block{4, 4}})
      for (const int32_t nth : {1, 2, 5, 16}) {
        check_f32(70, Sparse<float>::random(200, 400, b.r, b.c, 90, random), nth % 2, true, PC_ACTIVATION_GELU, has_fma(isa), random, nth);
        check_s32(70, Sparse<int8_t>::random(140, 1100, b.r, b.c, 95, random), nth % 2, false, -1, random, nth);
        for (const int64_t m : {1, 2, 7, 13})  // by a few rows
          check_s32(m, Sparse<int8_t>::random(300, 1100, b.r, b.c, 90, random), false, m % 2, -1, random, nth);
        check_f32(3, Sparse<float>::random(150, 300, b.r, b.c, 90, random), false, true, PC_ACTIVATION_NONE, has_fma(isa), random, nth);
      }
  });
}

// All patterns of zeros of a small matrix.
TEST(every_pattern) {
  for_each_isa([](const std::string& isa) {
    Random random(4);
    for (int pattern = 0; pattern < 512; pattern += kStride) {
      std::vector<int8_t> w(9 * 4);
      std::vector<float> wf(w.size());
      for (size_t i = 0; i < w.size(); ++i) {
        w[i] = static_cast<int8_t>(pattern >> i / 4 & 1 ? 40 + i : 0);
        wf[i] = w[i];
      }
      for (const int64_t m : {1, 3}) {
        check_s32(m, Sparse<int8_t>(3, 12, 1, 4, w), false, false, -1, random);
        check_s32(m, Sparse<int8_t>(9, 4, 1, 4, w), false, false, -1, random);
        check_s32(m, Sparse<int8_t>(9, 4, 1, 1, w), false, false, -1, random);
        check_f32(m, Sparse<float>(9, 4, 1, 4, wf), false, false, PC_ACTIVATION_NONE, has_fma(isa), random);
        check_f32(m, Sparse<float>(36, 1, 4, 1, wf), false, false, PC_ACTIVATION_NONE, has_fma(isa), random);
      }
    }
  });
}

// The greatest products in every lane, where 16 bits would saturate.
TEST(extremes) {
  for_each_isa([](const std::string&) {
    Random random(5);
    for (const Block& b : kBlocks)
      for (const int value : {127, -127, -128})
        for (const int64_t m : {1, 5, 16, 70}) {
          std::vector<int8_t> w(33 * 64, static_cast<int8_t>(value));
          for (size_t i = 0; i < w.size(); i += 7) w[i] = static_cast<int8_t>(value / 3);
          check_s32(m, Sparse<int8_t>(33, 64, b.r, b.c, w), false, false, 255, random);
          check_s32(m, Sparse<int8_t>(33, 64, b.r, b.c, w), true, true, 0x80, random);
        }
  });
}

TEST(last_steps) {
  for_each_isa([](const std::string&) {
    Random random(6);
    const int64_t m = 37, n = 50, k = 130;
    for (const Block& b : {Block{1, 1}, Block{1, 4}, Block{4, 1}})
      for (const pc_type y_type : {PC_F32, PC_U8, PC_S8})
        for (int32_t activation = 0; activation <= PC_ACTIVATION_GELU; ++activation)
          for (const bool with_bias : {false, true})
            for (const bool transposed : {false, true})
              for (const bool float_x : {false, true}) {
                auto w = Sparse<int8_t>::random(n, k, b.r, b.c, 70, random);
                std::vector<float> bias(static_cast<size_t>(n)), xf(static_cast<size_t>(m * k)), y(static_cast<size_t>(m * n));
                for (float& v : w.scale) v = random.real(0.001f, 0.02f);
                for (float& v : bias) v = random.real(-3, 3);
                for (float& v : xf) v = random.real(-2, 3);
                std::vector<uint8_t> x(static_cast<size_t>(m * k));
                random.fill(x.data(), x.size());
                pc_gemm_s8_desc r{};
                pc_spmm_desc d = sparse_desc(w, m);
                d.x_transposed = d.y_transposed = transposed;
                d.x_type = float_x ? PC_F32 : PC_U8;
                r.y_type = d.y_type = y_type;
                r.x_scale = d.x_scale = 0.021f;
                d.x_zero_point = 101;
                r.y_scale = d.y_scale = 0.3f;
                r.y_zero_point = d.y_zero_point = 17;
                r.activation = d.activation = activation;
                r.low = d.low = -2;
                r.high = d.high = 9;
                d.bias = with_bias ? bias.data() : nullptr;
                Aligned packed = pack_sparse(w.matrix());
                CHECK_OK(run_sparse(d, packed, float_x ? static_cast<const void*>(xf.data()) : x.data(), y.data()));
                int wrong = 0;
                for (int64_t i = 0; i < m; ++i)
                  for (int64_t j = 0; j < n; ++j) {
                    int32_t acc = 0;
                    for (int64_t l = 0; l < k; ++l) {
                      const size_t at = index(transposed, i, l, transposed ? m : k);
                      const int32_t q = float_x ? reference::rounded(xf[at] * (1 / d.x_scale), d.x_zero_point, {0, 255}) : x[at];
                      acc += (q - d.x_zero_point) * w.at(j, l);
                    }
                    const float scale = w.scale[static_cast<size_t>(j)], *bias_at = with_bias ? &bias[static_cast<size_t>(j)] : nullptr;
                    const size_t at = index(transposed, i, j, transposed ? m : n);
                    if (y_type == PC_F32)
                      wrong += !same_bits(y[at], reference::to_f32(acc, d.x_scale, scale, bias_at, activation, d.low, d.high));
                    else
                      wrong += (y_type == PC_U8 ? reinterpret_cast<uint8_t*>(y.data())[at] : reinterpret_cast<int8_t*>(y.data())[at]) !=
                               reference::to_q8(acc, r, scale, bias_at);
                  }
                CHECK(wrong == 0, "%d values wrong: y_type %d, activation %d, bias %d, transposed %d, float x %d, blocks %lld x %lld", wrong, y_type,
                      activation, with_bias, transposed, float_x, static_cast<long long>(b.r), static_cast<long long>(b.c));
              }
  });
}

// ---- misuse

struct Call {
  Random random{7};
  Sparse<int8_t> w = Sparse<int8_t>::random(6, 9, 2, 2, 40, random);
  pc_sparse_matrix matrix = w.matrix();
  pc_spmm_desc d = sparse_desc(w, 3);
  std::vector<float> x = std::vector<float>(3 * 9, 1.0f), y = std::vector<float>(3 * 6, 777.0f), bias = std::vector<float>(6, 1.0f);
  const pc_spmm_desc* desc = &d;
  const void* x_at = x.data();
  void* y_at = y.data();
  int32_t ith = 0, nth = 1;
  Call() {
    d.y_type = PC_F32;
    d.x_scale = d.y_scale = 1;
  }
};

void expect(pc_status wanted, const char* what, const std::function<void(Call&)>& change) {
  Call c;
  change(c);
  Aligned packed = pack_sparse(c.matrix), workspace(size_t{1} << 18);
  const pc_status got = pc_spmm_run(c.desc, packed.data(), packed.bytes(), c.x_at, c.y_at, workspace.data(), workspace.bytes(), c.ith, c.nth);
  CHECK(got == wanted, "%s: got %s, wanted %s; %s", what, pc_status_name(got), pc_status_name(wanted), pc_last_error());
  if (wanted != PC_OK) CHECK(std::all_of(c.y.begin(), c.y.end(), [](float v) { return v == 777.0f; }), "%s: y was written", what);
}

TEST(misuse_of_run) {
  for_each_isa([](const std::string&) {
    expect(PC_OK, "nothing", [](Call&) {});
    expect(PC_ERROR_NULL, "desc", [](Call& c) { c.desc = nullptr; });
    expect(PC_ERROR_STRUCT, "size", [](Call& c) { c.d.size -= 8; });
    expect(PC_ERROR_NULL, "x", [](Call& c) { c.x_at = nullptr; });
    expect(PC_ERROR_NULL, "y", [](Call& c) { c.y_at = nullptr; });
    expect(PC_ERROR_SHAPE, "m", [](Call& c) { c.d.m = -1; });
    expect(PC_ERROR_SHAPE, "n", [](Call& c) { c.d.n = 7; });
    expect(PC_ERROR_SHAPE, "k", [](Call& c) { c.d.k = 8; });
    expect(PC_ERROR_SHAPE, "ldx", [](Call& c) { c.d.ldx = 8; });
    expect(PC_ERROR_SHAPE, "ldy", [](Call& c) { c.d.ldy = 5; });
    expect(PC_ERROR_SHAPE, "ldx transposed", [](Call& c) { c.d.x_transposed = 1, c.d.ldx = 2; });
    expect(PC_ERROR_VALUE, "x_transposed", [](Call& c) { c.d.x_transposed = 2; });
    expect(PC_ERROR_VALUE, "y_transposed", [](Call& c) { c.d.y_transposed = -1; });
    expect(PC_ERROR_OVERFLOW, "m too large", [](Call& c) { c.d.m = INT64_MAX / 8; });
    expect(PC_ERROR_TYPE, "x_type", [](Call& c) { c.d.x_type = PC_S32; });
    expect(PC_ERROR_TYPE, "y_type", [](Call& c) { c.d.y_type = 9; });
    expect(PC_ERROR_TYPE, "float32 to int32", [](Call& c) { c.d.x_type = PC_F32, c.d.y_type = PC_S32; });
    expect(PC_ERROR_VALUE, "bias with int32", [](Call& c) { c.d.y_type = PC_S32, c.d.bias = c.bias.data(); });
    expect(PC_ERROR_VALUE, "x_scale", [](Call& c) { c.d.x_scale = -1; });
    expect(PC_ERROR_VALUE, "x_scale of uint8", [](Call& c) { c.d.x_scale = 0; });
    expect(PC_ERROR_VALUE, "x_scale without inverse", [](Call& c) { c.d.x_type = PC_F32, c.d.x_scale = 1e-40f; });
    expect(PC_ERROR_VALUE, "per row, transposed", [](Call& c) { c.d.x_type = PC_F32, c.d.x_scale = 0, c.d.x_transposed = 1; });
    expect(PC_ERROR_VALUE, "per row, requantized", [](Call& c) { c.d.x_type = PC_F32, c.d.x_scale = 0, c.d.y_type = PC_U8; });
    expect(PC_ERROR_VALUE, "x_zero_point", [](Call& c) { c.d.x_zero_point = 256; });
    expect(PC_ERROR_VALUE, "y_scale", [](Call& c) { c.d.y_type = PC_U8, c.d.y_scale = 0; });
    expect(PC_ERROR_VALUE, "y_zero_point", [](Call& c) { c.d.y_type = PC_S8, c.d.y_zero_point = 200; });
    expect(PC_ERROR_VALUE, "multiplier", [](Call& c) { c.d.y_type = PC_S8, c.d.x_scale = 1e30f, c.d.y_scale = 1e-30f; });
    expect(PC_ERROR_VALUE, "activation", [](Call& c) { c.d.activation = 5; });
    expect(PC_ERROR_VALUE, "clamp", [](Call& c) { c.d.activation = PC_ACTIVATION_CLAMP, c.d.low = 1, c.d.high = 0; });
    expect(PC_ERROR_VALUE, "ith", [](Call& c) { c.ith = 1; });
    expect(PC_ERROR_VALUE, "nth", [](Call& c) { c.nth = 0; });
    expect(PC_ERROR_OVERLAP, "x is y", [](Call& c) { c.x_at = c.y_at; });
    expect(PC_ERROR_OVERLAP, "bias is y", [](Call& c) { c.d.bias = c.y.data(); });
    expect(PC_ERROR_ALIGNMENT, "y", [](Call& c) { c.y_at = reinterpret_cast<char*>(c.y.data()) + 1; });
    expect(PC_ERROR_NONFINITE, "NaN", [](Call& c) { c.d.x_type = PC_F32, c.x[12] = std::nanf(""); });
    expect(PC_ERROR_NONFINITE, "infinity per row", [](Call& c) { c.d.x_type = PC_F32, c.d.x_scale = 0, c.x[0] = HUGE_VALF; });
    expect(PC_ERROR_NONFINITE, "width", [](Call& c) { c.d.x_type = PC_F32, c.d.x_scale = 0, c.x[0] = 3e38f, c.x[1] = -3e38f; });
    expect(PC_ERROR_NONFINITE, "bias", [](Call& c) { c.d.y_type = PC_U8, c.bias[1] = std::nanf(""), c.d.bias = c.bias.data(); });
  });
}

TEST(misuse_of_pack) {
  const auto expect_matrix = [](pc_status wanted, const char* what, const std::function<void(Sparse<int8_t>&, pc_sparse_matrix&)>& change) {
    Random random(8);
    auto w = Sparse<int8_t>::random(6, 9, 2, 2, 0, random);
    pc_sparse_matrix matrix = w.matrix();
    change(w, matrix);
    size_t bytes = 0;
    const pc_status got = pc_spmm_pack_size(&matrix, &bytes);
    CHECK(got == wanted, "%s: got %s, wanted %s; %s", what, pc_status_name(got), pc_status_name(wanted), pc_last_error());
    Aligned packed(4096);
    CHECK(pc_spmm_pack(&matrix, packed.data(), packed.bytes()) == wanted, "%s", what);
  };
  typedef Sparse<int8_t> W;
  typedef pc_sparse_matrix M;
  expect_matrix(PC_OK, "nothing", [](W&, M&) {});
  expect_matrix(PC_ERROR_STRUCT, "size", [](W&, M& m) { m.size = 0; });
  expect_matrix(PC_ERROR_TYPE, "type", [](W&, M& m) { m.type = PC_U8; });
  expect_matrix(PC_ERROR_SHAPE, "n", [](W&, M& m) { m.n = -1; });
  expect_matrix(PC_ERROR_SHAPE, "block", [](W&, M& m) { m.block_n = 0; });
  expect_matrix(PC_ERROR_SHAPE, "blocks", [](W&, M& m) { m.blocks = -1; });
  expect_matrix(PC_ERROR_SHAPE, "fewer blocks", [](W&, M& m) { --m.blocks; });
  expect_matrix(PC_ERROR_OVERFLOW, "n too large", [](W&, M& m) { m.n = int64_t{1} << 40; });
  expect_matrix(PC_ERROR_OVERFLOW, "k too large", [](W&, M& m) { m.k = 70000; });
  expect_matrix(PC_ERROR_OVERFLOW, "block too large", [](W&, M& m) { m.block_n = m.block_k = INT32_MAX; });
  expect_matrix(PC_ERROR_NULL, "data", [](W&, M& m) { m.data = nullptr; });
  expect_matrix(PC_ERROR_NULL, "indices", [](W&, M& m) { m.indices = nullptr; });
  expect_matrix(PC_ERROR_NULL, "indptr", [](W&, M& m) { m.indptr = nullptr; });
  expect_matrix(PC_ERROR_ALIGNMENT, "indices",
                [](W& w, M& m) { m.indices = reinterpret_cast<int32_t*>(reinterpret_cast<char*>(w.indices.data()) + 1); });
  expect_matrix(PC_ERROR_SHAPE, "indptr begin", [](W& w, M&) { w.indptr[0] = 1; });
  expect_matrix(PC_ERROR_SHAPE, "indptr end", [](W& w, M&) { ++w.indptr.back(); });
  expect_matrix(PC_ERROR_VALUE, "indptr descends", [](W& w, M&) { w.indptr[1] = w.indptr[2] + 1; });
  expect_matrix(PC_ERROR_VALUE, "indptr negative", [](W& w, M&) { w.indptr[1] = -5; });
  expect_matrix(PC_ERROR_VALUE, "indptr beyond", [](W& w, M&) { w.indptr[1] = 1 << 30; });
  expect_matrix(PC_ERROR_VALUE, "index negative", [](W& w, M&) { w.indices[0] = -1; });
  expect_matrix(PC_ERROR_VALUE, "index too large", [](W& w, M&) { w.indices[4] = 5; });
  expect_matrix(PC_ERROR_VALUE, "unsorted", [](W& w, M&) { std::swap(w.indices[1], w.indices[2]); });
  expect_matrix(PC_ERROR_VALUE, "twice", [](W& w, M&) { w.indices[1] = w.indices[0]; });
  expect_matrix(PC_ERROR_VALUE, "overhang", [](W& w, M&) { w.data.back() = 1; });
  expect_matrix(PC_ERROR_VALUE, "scale", [](W& w, M&) { w.scale[2] = 0; });
  size_t bytes = 0;
  Random random(9);
  const auto w = Sparse<float>::random(6, 9, 2, 2, 0, random);
  pc_sparse_matrix m = w.matrix();
  CHECK_STATUS(PC_ERROR_NULL, pc_spmm_pack_size(nullptr, &bytes));
  CHECK_STATUS(PC_ERROR_NULL, pc_spmm_pack_size(&m, nullptr));
  CHECK_OK(pc_spmm_pack_size(&m, &bytes));
  Aligned packed(bytes + 64);
  CHECK_STATUS(PC_ERROR_NULL, pc_spmm_pack(&m, nullptr, bytes));
  CHECK_STATUS(PC_ERROR_BUFFER, pc_spmm_pack(&m, packed.data(), bytes - 1));
  CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_spmm_pack(&m, packed.data() + 1, bytes));
  std::memcpy(packed.data(), w.data.data(), std::min(bytes, w.data.size() * 4));
  m.data = packed.data();
  CHECK_STATUS(PC_ERROR_OVERLAP, pc_spmm_pack(&m, packed.data(), bytes));
  m.data = w.data.data();
  m.scale = w.scale.data();
  CHECK_STATUS(PC_ERROR_VALUE, pc_spmm_pack(&m, packed.data(), bytes));
}

TEST(packed_info_and_a_float32_weight) {
  Random random(10);
  const auto w = Sparse<float>::random(6, 9, 4, 1, 50, random);
  Aligned packed = pack_sparse(w.matrix());
  int64_t n = 0, k = 0;
  pc_type type = 0;
  const char* kernel = nullptr;
  CHECK_OK(pc_spmm_packed_info(packed.data(), packed.bytes(), &n, &k, &type, &kernel));
  CHECK(n == 6 && k == 9 && type == PC_F32 && std::strncmp(kernel, "sparse_f32/", 11) == 0);
  CHECK_OK(pc_spmm_packed_info(packed.data(), packed.bytes(), nullptr, nullptr, nullptr, nullptr));
  CHECK_STATUS(PC_ERROR_NULL, pc_spmm_packed_info(nullptr, packed.bytes(), &n, &k, &type, &kernel));
  pc_spmm_desc d = sparse_desc(w, 1);
  float x[9] = {}, y[6];
  d.x_scale = 1;
  CHECK_STATUS(PC_ERROR_VALUE, run_sparse(d, packed, x, y));
  d.x_scale = 0;
  d.x_type = PC_U8;
  CHECK_STATUS(PC_ERROR_TYPE, run_sparse(d, packed, x, y));
  d.x_type = PC_F32;
  CHECK_OK(run_sparse(d, packed, x, y));
  size_t bytes = 0;
  CHECK_OK(pc_spmm_workspace_size(&d, packed.data(), packed.bytes(), 2, &bytes));
  Aligned workspace(bytes);
  CHECK_STATUS(PC_ERROR_BUFFER, pc_spmm_run(&d, packed.data(), packed.bytes(), x, y, workspace.data(), bytes - 1, 0, 2));
  CHECK_STATUS(PC_ERROR_NULL, pc_spmm_run(&d, packed.data(), packed.bytes(), x, y, nullptr, bytes, 0, 2));
  CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_spmm_run(&d, packed.data(), packed.bytes(), x, y, workspace.data() + 4, bytes, 0, 1));
}

void check_packed_for_another(int64_t m, int64_t k, int percent) {
  Random random(11);
  const auto w = Sparse<int8_t>::random(50, k, 1, 4, percent, random);
  std::vector<uint8_t> x(static_cast<size_t>(m * k));
  random.fill(x.data(), x.size());
  pc_spmm_desc d = sparse_desc(w, m);
  std::vector<int32_t> wanted(static_cast<size_t>(m * 50)), y(wanted.size());
  CHECK_OK(pc_set_isa("scalar"));
  Aligned scalar = pack_sparse(w.matrix());
  CHECK_OK(run_sparse(d, scalar, x.data(), wanted.data()));
  for (int32_t a = 0; a < pc_isa_count(); ++a) {
    if (!pc_isa_usable(a)) continue;
    CHECK_OK(pc_set_isa(pc_isa_name(a)));
    Aligned packed = pack_sparse(w.matrix());
    for (int32_t b = 0; b < pc_isa_count(); ++b) {
      if (!pc_isa_usable(b)) continue;
      CHECK_OK(pc_set_isa(pc_isa_name(b)));
      std::fill(y.begin(), y.end(), -1);
      CHECK_OK(run_sparse(d, packed, x.data(), y.data()));
      CHECK(y == wanted, "packed for %s, run with %s: %lld x %lld, %d %%", pc_isa_name(a), pc_isa_name(b), static_cast<long long>(m),
            static_cast<long long>(k), percent);
    }
  }
  CHECK_OK(pc_set_isa(nullptr));
}

// A weight packed for one instruction set runs on every other that can read it, with the same bits; also in blocks of k that are too long for the
// other's kernel of a few rows.
TEST(packed_for_another) {
  check_packed_for_another(20, 200, 60);
  for (const int64_t m : {1, 2}) check_packed_for_another(m, 1100, 95);
}

}  // namespace
