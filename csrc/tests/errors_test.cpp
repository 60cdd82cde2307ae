// Every misuse that the header names has its status, says what is wrong, and leaves the output alone.
#include <functional>

#include "gemm.h"

using namespace test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kHuge = INT64_MAX;

template <class T> T* misaligned(T* p) { return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) + 1); }

// ---- gemm_s8

struct S8 {
  static constexpr int64_t M = 3, N = 5, K = 7;
  std::vector<int8_t> w = std::vector<int8_t>(N * K, 1);
  std::vector<float> x = std::vector<float>(M * K, 1.0f), bias = std::vector<float>(N, 1.0f), y = std::vector<float>(M * N, 777.0f);
  std::vector<int32_t> x_zero_points = std::vector<int32_t>(M, 0), w_zero_points = std::vector<int32_t>(N, 0);
  Aligned packed = pack_s8(w.data(), PC_S8, N, K, K, 1, nullptr);
  Aligned workspace = Aligned(size_t{1} << 16);
  pc_gemm_s8_desc d{};
  // What the run gets; a case changes one of them.
  const pc_gemm_s8_desc* desc = &d;
  const void* packed_at = packed.data();
  size_t packed_bytes = packed.bytes(), workspace_bytes = workspace.bytes();
  const void* x_at = x.data();
  void* y_at = y.data();
  void* workspace_at = workspace.data();
  int32_t ith = 0, nth = 1;

  S8() {
    d.size = sizeof d;
    d.m = M;
    d.n = N;
    d.k = K;
    d.x_type = PC_U8;
    d.y_type = PC_F32;
    d.x_scale = 1;
    d.y_scale = 1;
  }
  pc_status run() { return pc_gemm_s8_run(desc, packed_at, packed_bytes, x_at, y_at, workspace_at, workspace_bytes, ith, nth); }
};

template <class Setup> void expect(pc_status wanted, const char* what, const std::function<void(Setup&)>& change) {
  Setup s;
  change(s);
  const std::vector<float> before = s.y;
  const pc_status got = s.run();
  CHECK(got == wanted, "%s: got %s, wanted %s; %s", what, pc_status_name(got), pc_status_name(wanted), pc_last_error());
  if (wanted == PC_OK) return;
  CHECK(*pc_last_error() != '\0', "%s", what);
  CHECK(std::memcmp(s.y.data(), before.data(), before.size() * 4) == 0, "%s: y was written", what);
}

TEST(gemm_s8_run) {
  for_each_isa([](const std::string&) {
    const auto e = expect<S8>;
    e(PC_OK, "as it is", [](S8&) {});
    e(PC_ERROR_NULL, "desc", [](S8& s) { s.desc = nullptr; });
    e(PC_ERROR_NULL, "packed", [](S8& s) { s.packed_at = nullptr; });
    e(PC_ERROR_NULL, "x", [](S8& s) { s.x_at = nullptr; });
    e(PC_ERROR_NULL, "y", [](S8& s) { s.y_at = nullptr; });
    e(PC_ERROR_NULL, "workspace", [](S8& s) { s.workspace_at = nullptr; });
    e(PC_ERROR_STRUCT, "size 0", [](S8& s) { s.d.size = 0; });
    e(PC_ERROR_STRUCT, "size + 1", [](S8& s) { ++s.d.size; });
    e(PC_ERROR_STRUCT, "size - 8", [](S8& s) { s.d.size -= 8; });
    e(PC_ERROR_VALUE, "ith < 0", [](S8& s) { s.ith = -1; });
    e(PC_ERROR_VALUE, "ith == nth", [](S8& s) { s.ith = 1; });
    e(PC_ERROR_VALUE, "nth 0", [](S8& s) { s.nth = 0; });
    e(PC_ERROR_SHAPE, "m < 0", [](S8& s) { s.d.m = -1; });
    e(PC_ERROR_SHAPE, "another n", [](S8& s) { ++s.d.n; });
    e(PC_ERROR_SHAPE, "another k", [](S8& s) { --s.d.k; });
    e(PC_ERROR_SHAPE, "ldx < k", [](S8& s) { s.d.ldx = S8::K - 1; });
    e(PC_ERROR_SHAPE, "ldx < 0", [](S8& s) { s.d.ldx = -S8::K; });
    e(PC_ERROR_SHAPE, "ldy < n", [](S8& s) { s.d.ldy = S8::N - 1; });
    e(PC_ERROR_OVERFLOW, "ldx huge", [](S8& s) { s.d.ldx = kHuge; });
    e(PC_ERROR_OVERFLOW, "ldy huge", [](S8& s) { s.d.ldy = kHuge; });
    e(PC_ERROR_OVERFLOW, "m huge", [](S8& s) { s.d.m = kHuge; });
    for (const pc_type type : {0, 4, 5, -1}) e(PC_ERROR_TYPE, "x_type", [type](S8& s) { s.d.x_type = type; });
    for (const pc_type type : {0, 5, -1}) e(PC_ERROR_TYPE, "y_type", [type](S8& s) { s.d.y_type = type; });
    e(PC_ERROR_TYPE, "float32 to int32", [](S8& s) {
      s.d.x_type = PC_F32;
      s.d.y_type = PC_S32;
    });
    for (const float scale : {0.0f, -1.0f, kInfinity, kNan}) {
      e(PC_ERROR_VALUE, "x_scale", [scale](S8& s) { s.d.x_scale = scale; });
      e(PC_ERROR_VALUE, "y_scale", [scale](S8& s) {
        s.d.y_type = PC_U8;
        s.d.y_scale = scale;
      });
    }
    e(PC_ERROR_VALUE, "per-row scale with uint8 result", [](S8& s) {
      s.d.x_type = PC_F32;
      s.d.x_scale = 0;
      s.d.y_type = PC_U8;
    });
    e(PC_ERROR_VALUE, "x_scale without inverse", [](S8& s) {
      s.d.x_type = PC_F32;
      s.d.x_scale = 1e-45f;
    });
    for (const int32_t zero_point : {-1, 256}) e(PC_ERROR_VALUE, "x_zero_point", [zero_point](S8& s) { s.d.x_zero_point = zero_point; });
    for (const int32_t zero_point : {-129, 128})
      e(PC_ERROR_VALUE, "x_zero_point of int8", [zero_point](S8& s) {
        s.d.x_type = PC_S8;
        s.d.x_zero_point = zero_point;
      });
    for (const int32_t zero_point : {-1, 256})
      e(PC_ERROR_VALUE, "y_zero_point", [zero_point](S8& s) {
        s.d.y_type = PC_U8;
        s.d.y_zero_point = zero_point;
      });
    for (const int32_t zero_point : {-129, 128})
      e(PC_ERROR_VALUE, "w_zero_points", [zero_point](S8& s) {
        s.w_zero_points[0] = zero_point;  // a later one is only found when its panel's turn comes
        s.d.w_zero_points = s.w_zero_points.data();
      });
    e(PC_ERROR_VALUE, "x_zero_points", [](S8& s) {
      s.x_zero_points[0] = 256;
      s.d.y_type = PC_S32;
      s.d.x_zero_points = s.x_zero_points.data();
    });
    e(PC_ERROR_VALUE, "x_zero_points with float32 result", [](S8& s) { s.d.x_zero_points = s.x_zero_points.data(); });
    e(PC_ERROR_VALUE, "bias with int32 result", [](S8& s) {
      s.d.y_type = PC_S32;
      s.d.bias = s.bias.data();
    });
    e(PC_ERROR_VALUE, "activation with int32 result", [](S8& s) {
      s.d.y_type = PC_S32;
      s.d.activation = PC_ACTIVATION_SILU;
    });
    for (const pc_activation activation : {-1, 5}) e(PC_ERROR_VALUE, "activation", [activation](S8& s) { s.d.activation = activation; });
    for (const float low : {2.0f, kNan})
      e(PC_ERROR_VALUE, "clamp", [low](S8& s) {
        s.d.activation = PC_ACTIVATION_CLAMP;
        s.d.low = low;
        s.d.high = 1;
      });
    for (const float bias : {kNan, kInfinity})
      e(PC_ERROR_NONFINITE, "bias to be quantized", [bias](S8& s) {
        s.bias[2] = bias;
        s.d.y_type = PC_U8;
        s.d.bias = s.bias.data();
      });
    for (const float x : {kNan, kInfinity, -kInfinity})
      e(PC_ERROR_NONFINITE, "x", [x](S8& s) {
        s.x[4] = x;
        s.d.x_type = PC_F32;
        s.d.x_scale = 0;
      });
    e(PC_ERROR_NONFINITE, "NaN with a given scale", [](S8& s) {
      s.x[4] = kNan;
      s.d.x_type = PC_F32;
    });
    e(PC_OK, "infinity with a given scale saturates", [](S8& s) {
      s.x[4] = kInfinity;
      s.d.x_type = PC_F32;
    });
    e(PC_ERROR_NONFINITE, "the width of a row", [](S8& s) {
      s.x[3] = 3e38f;
      s.x[4] = -3e38f;
      s.d.x_type = PC_F32;
      s.d.x_scale = 0;
    });
    e(PC_ERROR_ALIGNMENT, "y", [](S8& s) { s.y_at = misaligned(s.y.data()); });
    e(PC_ERROR_ALIGNMENT, "x", [](S8& s) {
      s.d.x_type = PC_F32;
      s.x_at = misaligned(s.x.data());
    });
    e(PC_ERROR_ALIGNMENT, "packed", [](S8& s) { s.packed_at = s.packed.data() + 32; });
    e(PC_ERROR_ALIGNMENT, "workspace", [](S8& s) { s.workspace_at = s.workspace.data() + 32; });
    e(PC_ERROR_BUFFER, "packed", [](S8& s) { --s.packed_bytes; });
    e(PC_ERROR_BUFFER, "packed of no bytes", [](S8& s) { s.packed_bytes = 0; });
    e(PC_ERROR_BUFFER, "workspace", [](S8& s) { s.workspace_bytes = 64; });
    e(PC_ERROR_FORMAT, "something else packed", [](S8& s) { s.packed_at = s.workspace.data(); });
    e(PC_ERROR_OVERLAP, "y is x", [](S8& s) { s.x_at = s.y.data(); });
    e(PC_ERROR_OVERLAP, "y ends in x", [](S8& s) { s.x_at = s.y.data() + S8::M * S8::N - 1; });
    e(PC_ERROR_OVERLAP, "y is bias", [](S8& s) { s.d.bias = s.y.data(); });
    e(PC_ERROR_OVERLAP, "y in packed", [](S8& s) { s.y_at = s.packed.data() + 64; });
    e(PC_ERROR_OVERLAP, "y is w_zero_points", [](S8& s) { s.d.w_zero_points = reinterpret_cast<const int32_t*>(s.y.data()); });
    e(PC_ERROR_OVERLAP, "y in workspace", [](S8& s) { s.y_at = s.workspace.data() + 64; });
    e(PC_ERROR_OVERLAP, "x in workspace", [](S8& s) { s.x_at = s.workspace.data() + 64; });
    e(PC_ERROR_OVERLAP, "bias in workspace", [](S8& s) { s.d.bias = reinterpret_cast<const float*>(s.workspace.data()); });
    e(PC_ERROR_OVERLAP, "workspace in packed", [](S8& s) { s.workspace_at = s.packed.data(); });
    e(PC_ERROR_OVERLAP, "packed of all memory", [](S8& s) { s.packed_bytes = SIZE_MAX; });
    e(PC_ERROR_ALIGNMENT, "bias", [](S8& s) { s.d.bias = misaligned(s.bias.data()); });
    e(PC_ERROR_ALIGNMENT, "w_zero_points", [](S8& s) { s.d.w_zero_points = misaligned(s.w_zero_points.data()); });
    // However large the arrays that would follow from a wrong shape: it is what is named.
    e(PC_ERROR_SHAPE, "n, with y before x", [](S8& s) {
      s.d.n = INT32_MAX;
      s.x_at = s.y.data() + S8::M * S8::N;
    });
    e(PC_OK, "one row has no next", [](S8& s) {
      s.d.m = 1;
      s.d.ldx = s.d.ldy = kHuge;
    });
  });
}

TEST(workspace_of_exactly_the_size_asked_for) {
  for_each_isa([](const std::string&) {
    S8 s;
    CHECK_OK(pc_gemm_s8_workspace_size(&s.d, s.packed_at, s.packed_bytes, 3, &s.workspace_bytes));
    s.nth = 3;
    CHECK_OK(s.run());
    --s.workspace_bytes;
    CHECK_STATUS(PC_ERROR_BUFFER, s.run());
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_s8_workspace_size(&s.d, s.packed_at, s.packed_bytes, 3, nullptr));
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_s8_workspace_size(nullptr, s.packed_at, s.packed_bytes, 3, &s.workspace_bytes));
    CHECK_STATUS(PC_ERROR_VALUE, pc_gemm_s8_workspace_size(&s.d, s.packed_at, s.packed_bytes, 0, &s.workspace_bytes));
  });
}

TEST(gemm_s8_pack) {
  for_each_isa([](const std::string&) {
    constexpr int64_t n = 5, k = 7;
    const std::vector<int8_t> w(n * k, 1);
    size_t bytes = 0, ignored = 0;
    CHECK_OK(pc_gemm_s8_pack_size(n, k, &bytes));
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_s8_pack_size(n, k, nullptr));
    CHECK_STATUS(PC_ERROR_SHAPE, pc_gemm_s8_pack_size(-1, k, &ignored));
    CHECK_STATUS(PC_ERROR_SHAPE, pc_gemm_s8_pack_size(n, -1, &ignored));
    CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_s8_pack_size(n, 65794, &ignored));
    CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_s8_pack_size(n, kHuge, &ignored));
    CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_s8_pack_size(kHuge, k, &ignored));
    Aligned packed(bytes);
    char* p = packed.data();
    CHECK_OK(pc_gemm_s8_pack(w.data(), PC_S8, n, k, k, 1, nullptr, p, bytes));
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_s8_pack(nullptr, PC_S8, n, k, k, 1, nullptr, p, bytes));
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_s8_pack(w.data(), PC_S8, n, k, k, 1, nullptr, nullptr, bytes));
    for (const pc_type type : std::initializer_list<pc_type>{PC_F32, PC_S32, 0, 9})
      CHECK_STATUS(PC_ERROR_TYPE, pc_gemm_s8_pack(w.data(), type, n, k, k, 1, nullptr, p, bytes));
    CHECK_STATUS(PC_ERROR_SHAPE, pc_gemm_s8_pack(w.data(), PC_S8, -1, k, k, 1, nullptr, p, bytes));
    CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_gemm_s8_pack(w.data(), PC_S8, n, k, k, 1, nullptr, p + 4, bytes));
    CHECK_STATUS(PC_ERROR_BUFFER, pc_gemm_s8_pack(w.data(), PC_S8, n, k, k, 1, nullptr, p, bytes - 1));
    for (const int64_t ld : {kHuge, INT64_MIN}) {
      CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_s8_pack(w.data(), PC_S8, n, k, ld, 1, nullptr, p, bytes));
      CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_s8_pack(w.data(), PC_S8, n, k, 1, ld, nullptr, p, bytes));
    }
    for (const float bad : {0.0f, -1.0f, kInfinity, kNan}) {
      const float scale[n] = {1, 1, 1, 1, bad};
      CHECK_STATUS(PC_ERROR_VALUE, pc_gemm_s8_pack(w.data(), PC_S8, n, k, k, 1, scale, p, bytes));
    }
    // Every byte is written, also those beyond the size that was asked for, and their values are the same each time.
    Aligned a(bytes + 128), b(bytes + 128);
    std::memset(b.data(), 0x11, b.bytes());
    CHECK_OK(pc_gemm_s8_pack(w.data(), PC_S8, n, k, k, 1, nullptr, a.data(), a.bytes()));
    CHECK_OK(pc_gemm_s8_pack(w.data(), PC_S8, n, k, k, 1, nullptr, b.data(), b.bytes()));
    CHECK(std::memcmp(a.data(), b.data(), a.bytes()) == 0);
  });
}

// ---- gemm_f32

struct F32 {
  static constexpr int64_t M = 3, N = 5, K = 7;
  std::vector<float> w = std::vector<float>(N * K + 1, 1.0f), x = std::vector<float>(M * K + 1, 1.0f), bias = std::vector<float>(N + 1, 1.0f),
                     y = std::vector<float>(M * N + 1, 777.0f);
  Aligned packed = pack_f32(w.data(), N, K, K, 1);
  Aligned workspace = Aligned(size_t{1} << 18);
  pc_gemm_f32_desc d{};
  const pc_gemm_f32_desc* desc = &d;
  const void* w_at = packed.data();
  size_t bytes = packed.bytes(), workspace_bytes = workspace.bytes();
  const float* x_at = x.data();
  float* y_at = y.data();
  void* workspace_at = workspace.data();
  int32_t ith = 0, nth = 1;

  F32() {
    d.size = sizeof d;
    d.m = M;
    d.n = N;
    d.k = K;
  }
  void plain() {
    w_at = w.data();
    bytes = 0;
  }
  pc_status run() { return pc_gemm_f32_run(desc, w_at, bytes, x_at, y_at, workspace_at, workspace_bytes, ith, nth); }
};

TEST(gemm_f32_run) {
  for_each_isa([](const std::string&) {
    const auto e = expect<F32>;
    e(PC_OK, "packed", [](F32&) {});
    e(PC_OK, "plain", [](F32& s) { s.plain(); });
    e(PC_ERROR_NULL, "desc", [](F32& s) { s.desc = nullptr; });
    e(PC_ERROR_NULL, "packed", [](F32& s) { s.w_at = nullptr; });
    e(PC_ERROR_NULL, "plain w", [](F32& s) {
      s.plain();
      s.w_at = nullptr;
    });
    e(PC_ERROR_NULL, "x", [](F32& s) { s.x_at = nullptr; });
    e(PC_ERROR_NULL, "y", [](F32& s) { s.y_at = nullptr; });
    e(PC_ERROR_NULL, "workspace", [](F32& s) { s.workspace_at = nullptr; });
    e(PC_ERROR_STRUCT, "size", [](F32& s) { ++s.d.size; });
    e(PC_ERROR_VALUE, "ith", [](F32& s) { s.ith = 1; });
    e(PC_ERROR_VALUE, "nth", [](F32& s) { s.nth = 0; });
    e(PC_ERROR_SHAPE, "m", [](F32& s) { s.d.m = -1; });
    e(PC_ERROR_SHAPE, "another n", [](F32& s) { ++s.d.n; });
    e(PC_ERROR_SHAPE, "another k", [](F32& s) { --s.d.k; });
    e(PC_ERROR_SHAPE, "ldx", [](F32& s) { s.d.ldx = F32::K - 1; });
    e(PC_ERROR_SHAPE, "ldy", [](F32& s) { s.d.ldy = F32::N - 1; });
    e(PC_ERROR_SHAPE, "ldn", [](F32& s) {
      s.plain();
      s.d.ldn = -1;
    });
    e(PC_ERROR_OVERFLOW, "ldx huge", [](F32& s) { s.d.ldx = kHuge; });
    e(PC_ERROR_OVERFLOW, "ldy huge", [](F32& s) { s.d.ldy = kHuge; });
    e(PC_ERROR_OVERFLOW, "m huge", [](F32& s) { s.d.m = kHuge; });
    e(PC_ERROR_OVERFLOW, "ldn huge", [](F32& s) {
      s.plain();
      s.d.ldn = kHuge;
      s.d.ldk = 1;
    });
    e(PC_ERROR_OVERFLOW, "ldk huge", [](F32& s) {
      s.plain();
      s.d.ldn = 1;
      s.d.ldk = kHuge;
    });
    for (const pc_activation activation : {-1, 5}) e(PC_ERROR_VALUE, "activation", [activation](F32& s) { s.d.activation = activation; });
    e(PC_ERROR_VALUE, "clamp", [](F32& s) {
      s.d.activation = PC_ACTIVATION_CLAMP;
      s.d.low = 1;
    });
    e(PC_ERROR_ALIGNMENT, "packed", [](F32& s) { s.w_at = s.packed.data() + 32; });
    e(PC_ERROR_ALIGNMENT, "plain w", [](F32& s) {
      s.plain();
      s.w_at = misaligned(s.w.data());
    });
    e(PC_ERROR_ALIGNMENT, "x", [](F32& s) { s.x_at = misaligned(s.x.data()); });
    e(PC_ERROR_ALIGNMENT, "y", [](F32& s) { s.y_at = misaligned(s.y.data()); });
    e(PC_ERROR_ALIGNMENT, "bias", [](F32& s) { s.d.bias = misaligned(s.bias.data()); });
    e(PC_ERROR_ALIGNMENT, "workspace", [](F32& s) { s.workspace_at = s.workspace.data() + 32; });
    e(PC_ERROR_BUFFER, "packed", [](F32& s) { --s.bytes; });
    e(PC_ERROR_BUFFER, "packed of 1 byte", [](F32& s) { s.bytes = 1; });
    e(PC_ERROR_BUFFER, "workspace", [](F32& s) { s.workspace_bytes = 64; });
    e(PC_ERROR_FORMAT, "something else packed", [](F32& s) { s.w_at = s.workspace.data(); });
    e(PC_ERROR_OVERLAP, "y is x", [](F32& s) { s.x_at = s.y.data(); });
    e(PC_ERROR_OVERLAP, "y in workspace", [](F32& s) { s.y_at = reinterpret_cast<float*>(s.workspace.data()); });
    e(PC_ERROR_OVERLAP, "workspace in packed", [](F32& s) { s.workspace_at = s.packed.data(); });
    e(PC_ERROR_OVERLAP, "y is bias", [](F32& s) { s.d.bias = s.y.data(); });
    e(PC_ERROR_OVERLAP, "y in plain w", [](F32& s) {
      s.plain();
      s.y_at = s.w.data() + 3;
    });
    e(PC_ERROR_OVERLAP, "y in packed", [](F32& s) { s.y_at = reinterpret_cast<float*>(s.packed.data() + s.packed.bytes()) - 1; });
    e(PC_ERROR_OVERLAP, "y in the header of packed", [](F32& s) { s.y_at = reinterpret_cast<float*>(s.packed.data()); });
  });
}

TEST(packed_of_no_inputs) {
  F32 s;
  Aligned packed = pack_f32(nullptr, F32::N, 0, 0, 1);
  s.w_at = packed.data();
  s.bytes = packed.bytes();
  s.d.k = 0;
  CHECK_OK(s.run());
  s.y_at = reinterpret_cast<float*>(packed.data());
  CHECK_STATUS(PC_ERROR_OVERLAP, s.run());
}

TEST(rows_of_no_inputs) {
  for_each_isa([](const std::string&) {
    S8 s;
    Aligned packed = pack_s8(nullptr, PC_S8, S8::N, 0, 0, 1, nullptr);
    s.packed_at = packed.data();
    s.packed_bytes = packed.bytes();
    s.d.k = 0;
    s.d.ldx = int64_t{1} << 60;  // leads from nothing to nothing
    s.x_at = nullptr;
    for (const pc_type type : {PC_F32, PC_U8, PC_S8}) {
      s.d.x_type = type;
      CHECK_OK(s.run());
      CHECK(s.y == std::vector<float>(s.y.size(), 0.0f));
    }
  });
}

TEST(many_rows_of_nothing) {
  for_each_isa([](const std::string&) {
    S8 s;
    Aligned packed = pack_s8(nullptr, PC_S8, 0, 0, 0, 1, nullptr);
    s.packed_at = packed.data();
    s.packed_bytes = packed.bytes();
    s.d.n = s.d.k = 0;
    s.d.m = int64_t{1} << 50;
    CHECK_OK(s.run());
    F32 f;
    f.plain();
    f.d.n = f.d.k = 0;
    f.d.m = int64_t{1} << 50;
    CHECK_OK(f.run());
  });
}

TEST(gemm_f32_output_right_behind_the_weight) {
  for_each_isa([](const std::string&) {
    F32 s;
    Aligned both(s.packed.bytes() + sizeof(float) * F32::M * F32::N);
    std::memcpy(both.data(), s.packed.data(), s.packed.bytes());
    s.w_at = both.data();
    s.y_at = reinterpret_cast<float*>(both.data() + s.packed.bytes());
    CHECK_OK(s.run());
  });
}

TEST(gemm_f32_sizes) {
  for_each_isa([](const std::string&) {
    F32 s;
    size_t bytes = 0;
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_f32_pack_size(5, 7, nullptr));
    CHECK_STATUS(PC_ERROR_SHAPE, pc_gemm_f32_pack_size(-1, 7, &bytes));
    CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_f32_pack_size(kHuge, 7, &bytes));
    CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_f32_pack_size(5, kHuge, &bytes));
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_f32_workspace_size(&s.d, 1, nullptr));
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_f32_workspace_size(nullptr, 1, &bytes));
    CHECK_STATUS(PC_ERROR_VALUE, pc_gemm_f32_workspace_size(&s.d, 0, &bytes));
    // Sizes that no memory has: an error or a number, but no undefined arithmetic.
    for (int64_t pc_gemm_f32_desc::* field : {&pc_gemm_f32_desc::m, &pc_gemm_f32_desc::n, &pc_gemm_f32_desc::k})
      for (const int64_t size : {kHuge, kHuge >> 8, kHuge >> 20}) {
        pc_gemm_f32_desc d = s.d;
        d.*field = size;
        const pc_status status = pc_gemm_f32_workspace_size(&d, INT32_MAX, &bytes);
        CHECK(status == PC_OK || status == PC_ERROR_OVERFLOW);
      }
    pc_gemm_f32_desc long_rows = s.d;
    long_rows.k = kHuge >> 20;
    CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_f32_workspace_size(&long_rows, INT32_MAX, &bytes));
    const std::vector<float> w(36, 1.0f);
    CHECK_OK(pc_gemm_f32_pack_size(5, 7, &bytes));
    Aligned packed(bytes);
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_f32_pack(nullptr, 5, 7, 7, 1, packed.data(), bytes));
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_f32_pack(w.data(), 5, 7, 7, 1, nullptr, bytes));
    CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_gemm_f32_pack(w.data(), 5, 7, 7, 1, packed.data() + 4, bytes));
    CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_gemm_f32_pack(misaligned(w.data()), 5, 7, 7, 1, packed.data(), bytes));
    CHECK_STATUS(PC_ERROR_BUFFER, pc_gemm_f32_pack(w.data(), 5, 7, 7, 1, packed.data(), bytes - 1));
    CHECK_STATUS(PC_ERROR_SHAPE, pc_gemm_f32_pack(w.data(), 5, -7, 7, 1, packed.data(), bytes));
    const std::vector<uint16_t> h(36, 0x3c00);
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_f16_pack_size(5, 7, nullptr));
    CHECK_STATUS(PC_ERROR_OVERFLOW, pc_gemm_f16_pack_size(kHuge, kHuge, &bytes));
    CHECK_OK(pc_gemm_f16_pack_size(5, 7, &bytes));
    CHECK_STATUS(PC_ERROR_NULL, pc_gemm_f16_pack(nullptr, 5, 7, 7, 1, packed.data(), bytes));
    CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_gemm_f16_pack(h.data(), 5, 7, 7, 1, packed.data() + 2, bytes));
    CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_gemm_f16_pack(misaligned(h.data()), 5, 7, 7, 1, packed.data(), bytes));
    CHECK_STATUS(PC_ERROR_BUFFER, pc_gemm_f16_pack(h.data(), 5, 7, 7, 1, packed.data(), bytes - 1));
    CHECK_STATUS(PC_ERROR_OVERLAP, pc_gemm_f16_pack(reinterpret_cast<uint16_t*>(packed.data()), 5, 7, 7, 1, packed.data(), bytes));
  });
}

// ---- quant

struct Quant {
  std::vector<float> x = std::vector<float>(9, 1.0f), y = std::vector<float>(9, 777.0f);
  std::vector<float> scale = {1, 2};
  std::vector<int32_t> zero_point = {0, 1};
  bool dequantize = false;
  pc_quant_desc d{};
  const pc_quant_desc* desc = &d;
  const void* x_at = x.data();
  void* y_at = y.data();
  int32_t ith = 0, nth = 1;

  Quant() {
    d.size = sizeof d;
    d.outer = 2;
    d.channels = 2;
    d.inner = 2;
    d.q_type = PC_U8;
    d.scale = scale.data();
    d.zero_point = zero_point.data();
  }
  pc_status run() {
    return dequantize ? pc_dequantize_linear_run(desc, x_at, static_cast<float*>(y_at), ith, nth)
                      : pc_quantize_linear_run(desc, static_cast<const float*>(x_at), y_at, ith, nth);
  }
};

TEST(quantize_and_dequantize) {
  for (const bool dequantize : {false, true}) {
    const auto e = [dequantize](pc_status wanted, const char* what, const std::function<void(Quant&)>& change) {
      expect<Quant>(wanted, what, [&](Quant& s) {
        s.dequantize = dequantize;
        change(s);
      });
    };
    e(PC_OK, "as it is", [](Quant&) {});
    e(PC_ERROR_NULL, "desc", [](Quant& s) { s.desc = nullptr; });
    e(PC_ERROR_NULL, "x", [](Quant& s) { s.x_at = nullptr; });
    e(PC_ERROR_NULL, "y", [](Quant& s) { s.y_at = nullptr; });
    e(PC_ERROR_NULL, "scale", [](Quant& s) { s.d.scale = nullptr; });
    e(PC_OK, "no zero point", [](Quant& s) { s.d.zero_point = nullptr; });
    e(PC_ERROR_STRUCT, "size", [](Quant& s) { --s.d.size; });
    e(PC_ERROR_VALUE, "ith", [](Quant& s) { s.ith = 1; });
    for (const pc_type type : std::initializer_list<pc_type>{PC_F32, 0, 5}) e(PC_ERROR_TYPE, "q_type", [type](Quant& s) { s.d.q_type = type; });
    e(dequantize ? PC_OK : PC_ERROR_TYPE, "int32", [](Quant& s) { s.d.q_type = PC_S32; });
    for (int64_t pc_quant_desc::* field : {&pc_quant_desc::outer, &pc_quant_desc::channels, &pc_quant_desc::inner}) {
      e(PC_ERROR_SHAPE, "a size < 0", [field](Quant& s) { s.d.*field = -1; });
      e(PC_ERROR_OVERFLOW, "a huge size", [field](Quant& s) { s.d.*field = kHuge; });
      e(PC_OK, "a size of 0", [field](Quant& s) { s.d.*field = 0; });
    }
    for (const float scale : {0.0f, -1.0f, kInfinity, kNan}) e(PC_ERROR_VALUE, "scale", [scale](Quant& s) { s.scale[1] = scale; });
    for (const int32_t zero_point : {-1, 256}) e(PC_ERROR_VALUE, "zero_point", [zero_point](Quant& s) { s.zero_point[1] = zero_point; });
    for (const int32_t zero_point : {-129, 128})
      e(PC_ERROR_VALUE, "zero_point of int8", [zero_point](Quant& s) {
        s.d.q_type = PC_S8;
        s.zero_point[1] = zero_point;
      });
    e(PC_ERROR_OVERLAP, "y is x", [](Quant& s) { s.x_at = s.y.data(); });
    e(PC_ERROR_OVERLAP, "y is scale", [](Quant& s) { s.d.scale = s.y.data(); });
    e(PC_ERROR_ALIGNMENT, "scale", [](Quant& s) { s.d.scale = misaligned(s.d.scale); });
    if (dequantize)
      e(PC_ERROR_ALIGNMENT, "y", [](Quant& s) { s.y_at = misaligned(s.y.data()); });
    else
      e(PC_ERROR_ALIGNMENT, "x", [](Quant& s) { s.x_at = misaligned(s.x.data()); });
  }
}

TEST(range_qparams_rows) {
  float x[8] = {}, range[2] = {}, scale[2];
  int32_t zero_point[2];
  uint8_t y[8];
  CHECK_STATUS(PC_ERROR_NULL, pc_range_run(nullptr, 8, range, 0, 1));
  CHECK_STATUS(PC_ERROR_NULL, pc_range_run(x, 8, nullptr, 0, 1));
  CHECK_STATUS(PC_ERROR_SHAPE, pc_range_run(x, -1, range, 0, 1));
  CHECK_STATUS(PC_ERROR_VALUE, pc_range_run(x, 8, range, 2, 2));
  CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_range_run(misaligned(x), 7, range, 0, 1));
  CHECK_STATUS(PC_ERROR_OVERFLOW, pc_range_run(x, kHuge, range, 0, 1));
  CHECK_STATUS(PC_ERROR_OVERLAP, pc_range_run(x, 8, x + 6, 0, 1));
  CHECK_OK(pc_range_run(nullptr, 0, range, 0, 1));

  CHECK_STATUS(PC_ERROR_NULL, pc_dynamic_qparams(nullptr, 1, scale, zero_point));
  CHECK_STATUS(PC_ERROR_NULL, pc_dynamic_qparams(range, 1, nullptr, zero_point));
  CHECK_STATUS(PC_ERROR_NULL, pc_dynamic_qparams(range, 1, scale, nullptr));
  CHECK_STATUS(PC_ERROR_VALUE, pc_dynamic_qparams(range, 0, scale, zero_point));

  CHECK_OK(pc_quantize_rows_run(x, 2, 4, 0, y, 0, scale, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_NULL, pc_quantize_rows_run(nullptr, 2, 4, 0, y, 0, scale, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_NULL, pc_quantize_rows_run(x, 2, 4, 0, nullptr, 0, scale, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_NULL, pc_quantize_rows_run(x, 2, 4, 0, y, 0, nullptr, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_NULL, pc_quantize_rows_run(x, 2, 4, 0, y, 0, scale, nullptr, 0, 1));
  CHECK_STATUS(PC_ERROR_SHAPE, pc_quantize_rows_run(x, -1, 4, 0, y, 0, scale, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_SHAPE, pc_quantize_rows_run(x, 2, 4, 3, y, 0, scale, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_SHAPE, pc_quantize_rows_run(x, 2, 4, 0, y, 3, scale, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_OVERFLOW, pc_quantize_rows_run(x, 3, 4, kHuge, y, 0, scale, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_VALUE, pc_quantize_rows_run(x, 2, 4, 0, y, 0, scale, zero_point, 1, 1));
  CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_quantize_rows_run(misaligned(x), 1, 4, 0, y, 0, scale, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_OVERLAP, pc_quantize_rows_run(x, 2, 4, 0, reinterpret_cast<uint8_t*>(x), 0, scale, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_OVERLAP, pc_quantize_rows_run(x, 2, 4, 0, y, 0, x, zero_point, 0, 1));
  CHECK_STATUS(PC_ERROR_OVERLAP, pc_quantize_rows_run(x, 2, 4, 0, y, 0, scale, reinterpret_cast<int32_t*>(scale), 0, 1));
  CHECK_STATUS(PC_ERROR_OVERFLOW, pc_quantize_by_run(x, kHuge, 1, 0, y, 0, 1));
}

// ---- the library itself

TEST(library) {
  CHECK(std::strcmp(pc_status_name(PC_OK), "ok") == 0 && std::strcmp(pc_status_name(PC_ERROR_NONFINITE), "nonfinite") == 0);
  for (const pc_status unknown : {-1, 13, INT32_MAX, INT32_MIN}) CHECK(std::strcmp(pc_status_name(unknown), "unknown") == 0);
  CHECK(pc_isa_name(-1) == nullptr && pc_isa_name(pc_isa_count()) == nullptr && pc_isa_name(INT32_MAX) == nullptr);
  CHECK(pc_isa_usable(-1) == 0 && pc_isa_usable(pc_isa_count()) == 0);
  CHECK(std::strcmp(pc_isa_name(0), "scalar") == 0 && pc_isa_usable(0) == 1);
  const int32_t active = pc_isa_active();
  CHECK_STATUS(PC_ERROR_ISA, pc_set_isa("avx1024"));
  CHECK(std::strstr(pc_last_error(), "avx1024") != nullptr);
  for (int32_t i = 0; i < pc_isa_count(); ++i)
    if (!pc_isa_usable(i)) CHECK_STATUS(PC_ERROR_ISA, pc_set_isa(pc_isa_name(i)));
  CHECK(pc_isa_active() == active, "a name that is refused changes nothing");
  CHECK_OK(pc_set_isa("scalar"));
  CHECK(pc_isa_active() == 0);
  CHECK_OK(pc_set_isa(""));
  CHECK(pc_isa_active() == active);

  pc_cpu_info info{};
  CHECK_STATUS(PC_ERROR_NULL, pc_get_cpu_info(nullptr));
  CHECK_STATUS(PC_ERROR_STRUCT, pc_get_cpu_info(&info));
  info.size = sizeof info;
  CHECK_OK(pc_get_cpu_info(&info));
  CHECK(info.usable_cpus >= 1);

  double peak = 0;
  CHECK_STATUS(PC_ERROR_NULL, pc_measure_peak(PC_F32, nullptr));
  CHECK_STATUS(PC_ERROR_TYPE, pc_measure_peak(PC_U8, &peak));
  CHECK_STATUS(PC_ERROR_NULL, pc_parallel(nullptr, nullptr, 2));
  CHECK_STATUS(PC_ERROR_VALUE, pc_parallel([](void*, int32_t, int32_t) -> pc_status { return PC_OK; }, nullptr, 0));
}

TEST(peak_of_each_isa) {
  for_each_isa([](const std::string& isa) {
    for (const pc_type type : {PC_F32, PC_S8}) {
      double macs = 0;
      CHECK_OK(pc_measure_peak(type, &macs));
      CHECK(macs > 1e6, "%s: %g", isa.c_str(), macs);
    }
  });
}

}  // namespace
