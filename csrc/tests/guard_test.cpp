// Every function of the header with each operand between inaccessible pages, on every instruction set; inputs are read-only meanwhile.
#include "guard.h"

#include <algorithm>

#include "gemm.h"
#include "sparse.h"

using namespace test;

namespace {

const bool installed = (install_guard_handler(), true);

// Gap bytes of a matrix [m, n] whose rows are ld apart keep the filling.
bool gaps_untouched(const unsigned char* y, int64_t m, int64_t n, int64_t ld, size_t size) {
  for (int64_t i = 0; i + 1 < m; ++i)
    for (size_t b = static_cast<size_t>(n) * size; b < static_cast<size_t>(ld) * size; ++b)
      if (y[static_cast<size_t>(i * ld) * size + b] != 0xa5) return false;
  return true;
}

size_t span(int64_t m, int64_t n, int64_t ld) { return m && n ? static_cast<size_t>((m - 1) * ld + n) : 0; }

std::vector<float> floats(size_t count, Random& random) {
  std::vector<float> values(count);
  for (float& v : values) v = random.real(-2, 3);
  return values;
}

TEST(machine_and_names) {
  Guarded out("out", Access::kWrite, kRoom), name("name", Access::kRead, kRoom), context("context", Access::kRead, kRoom);
  for (const Place place : kPlaces) {
    pc_cpu_info info{};
    info.size = sizeof info;
    CHECK_OK(pc_get_cpu_info(put(out, place, info)));
    check_rest({&out});
    CHECK_OK(pc_set_isa(put(name, place, std::vector<char>{'s', 'c', 'a', 'l', 'a', 'r', '\0'})));
    CHECK_OK(pc_measure_peak(PC_S8, put(out, place, 0.0)));
    check_rest({&out});
    void* nothing = context.place(place, 0, 1);  // pc_parallel must not look at it
    CHECK_OK(pc_parallel([](void*, int32_t, int32_t) -> pc_status { return PC_OK; }, nothing, 2));
  }
  CHECK_OK(pc_set_isa(nullptr));
}

TEST(quantize_linear_and_dequantize_linear) {
  for_each_isa([](const std::string& isa) {
    Guarded desc("desc", Access::kRead, kRoom), scale("scale", Access::kRead, kRoom), zero_point("zero_point", Access::kRead, kRoom),
        in("x", Access::kRead, kRoom), out("y", Access::kWrite, kRoom);
    Random random(1);
    for (const Place place : kPlaces)
      for (const int64_t channels : {1, 3})
        for (int64_t inner = 0; inner <= 70; inner += kStride)
          for (const pc_type type : {PC_U8, PC_S8, PC_S32})
            for (const int32_t nth : {1, 3}) {
              at("%s quantize/dequantize channels=%d inner=%d type=%d nth=%d", isa.c_str(), static_cast<int>(channels), static_cast<int>(inner), type,
                 nth);
              const size_t count = static_cast<size_t>(channels * inner), size = size_of(type);
              pc_quant_desc d{};
              d.size = sizeof d;
              d.outer = 1;
              d.channels = channels;
              d.inner = inner;
              d.q_type = type;
              d.scale = put(scale, place, std::vector<float>(static_cast<size_t>(channels), 0.1f));
              d.zero_point = put(zero_point, place, std::vector<int32_t>(static_cast<size_t>(channels), 7));
              const pc_quant_desc* pd = put(desc, place, d);
              if (type != PC_S32) {
                const float* x = put(in, place, floats(count, random));
                void* y = out.place(place, count, 1);
                for (int32_t ith = 0; ith < nth; ++ith) CHECK_OK(pc_quantize_linear_run(pd, x, y, ith, nth));
                check_rest({&out});
              }
              const void* q = put(in, place, std::vector<uint8_t>(count * size, 9), size);
              float* y = static_cast<float*>(out.place(place, count * 4, 4));
              for (int32_t ith = 0; ith < nth; ++ith) CHECK_OK(pc_dequantize_linear_run(pd, q, y, ith, nth));
              check_rest({&out});
            }
  });
}

TEST(range_and_qparams) {
  for_each_isa([](const std::string& isa) {
    Guarded x("x", Access::kRead, kRoom), out("range", Access::kWrite, kRoom), ranges("ranges", Access::kRead, kRoom),
        scale("scale", Access::kWrite, kRoom), zero_point("zero_point", Access::kWrite, kRoom);
    Random random(1);
    for (const Place place : kPlaces)
      for (int64_t count = 0; count <= 200; ++count)
        for (const int32_t nth : {1, 3}) {
          at("%s range count=%d nth=%d", isa.c_str(), static_cast<int>(count), nth);
          const float* px = put(x, place, floats(static_cast<size_t>(count), random));
          float* range = static_cast<float*>(out.place(place, sizeof(float) * 2 * static_cast<size_t>(nth), 4));
          for (int32_t ith = 0; ith < nth; ++ith) CHECK_OK(pc_range_run(px, count, range, ith, nth));
          check_rest({&out});
          const float* read = put(ranges, place, std::vector<float>(out.own<float>(), out.own<float>() + 2 * nth));
          CHECK_OK(pc_dynamic_qparams(read, nth, put(scale, place, 0.0f), put(zero_point, place, int32_t{0})));
          check_rest({&scale, &zero_point});
        }
  });
}

TEST(quantize_rows) {
  for_each_isa([](const std::string& isa) {
    Guarded x("x", Access::kRead, kRoom), y("y", Access::kWrite, kRoom), scale("scale", Access::kWrite, kRoom),
        zero_point("zero_point", Access::kWrite, kRoom);
    Random random(1);
    for (const Place place : kPlaces)
      for (const int64_t m : {1, 2, 5})
        for (int64_t k = 0; k <= 70; ++k)
          for (const int64_t gap : {0, 3}) {
            at("%s quantize_rows m=%d k=%d gap=%d", isa.c_str(), static_cast<int>(m), static_cast<int>(k), static_cast<int>(gap));
            const float* px = put(x, place, floats(span(m, k, k + gap), random));
            uint8_t* py = static_cast<uint8_t*>(y.place(place, span(m, k, k + gap), 1));
            float* ps = static_cast<float*>(scale.place(place, static_cast<size_t>(m) * 4, 4));
            int32_t* pz = static_cast<int32_t*>(zero_point.place(place, static_cast<size_t>(m) * 4, 4));
            CHECK_OK(pc_quantize_rows_run(px, m, k, k + gap, py, k + gap, ps, pz, 0, 1));
            check_rest({&y, &scale, &zero_point});
            CHECK(k == 0 || gaps_untouched(y.own<unsigned char>(), m, k, k + gap, 1), "a gap was written");
          }
  });
}

struct Shape {
  int64_t m, n, k;
};

// All of m around the tiles' heights, n around the panels' widths, k around the groups, and a few with several blocks.
std::vector<Shape> shapes() {
  std::vector<Shape> all = {{1, 1, 0}, {40, 5, 385}, {2, 3, 4097}, {200, 34, 9}, {1, 16, 192}, {3, 17, 200}, {17, 33, 201}, {8, 16, 192}};
  for (const int64_t m : {1, 2, 3, 5, 6, 7, 12, 13})
    for (const int64_t n : {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64})
      for (const int64_t k : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65}) all.push_back({m, n, k});
  if (kStride == 1) return all;
  std::vector<Shape> some;
  for (size_t i = 0; i < all.size(); ++i)
    if (i < 8 || i % kStride == 0) some.push_back(all[i]);
  return some;
}

TEST(gemm_s8) {
  for_each_isa([](const std::string& isa) {
    constexpr size_t room = size_t{1} << 18;
    Guarded desc("desc", Access::kRead, kRoom), w("w", Access::kRead, room), w_scale("scale", Access::kRead, kRoom),
        packing("packed to write", Access::kWrite, room), packed("packed", Access::kRead, room), x("x", Access::kRead, room),
        y("y", Access::kWrite, room), bias("bias", Access::kRead, kRoom), x_zero_points("x_zero_points", Access::kRead, kRoom),
        w_zero_points("w_zero_points", Access::kRead, kRoom), bytes_out("bytes", Access::kWrite, kRoom), n_out("n", Access::kWrite, kRoom),
        k_out("k", Access::kWrite, kRoom), kernel_out("kernel", Access::kWrite, kRoom);
    std::unique_ptr<Guarded> workspace;
    size_t workspace_room = 0;
    Random random(1);
    int count = 0;
    for (const Shape& s : shapes())
      for (const Place place : kPlaces) {
        // Types, gaps and options take turns with the shapes.
        ++count;
        const pc_type x_type = count % 3 == 0 ? PC_F32 : count % 3 == 1 ? PC_U8 : PC_S8;
        const pc_type w_type = count % 5 < 3 ? PC_S8 : PC_U8;
        const pc_type y_types[] = {PC_S32, PC_F32, PC_U8, PC_S8};
        const pc_type y_type = y_types[x_type == PC_F32 ? 1 : count / 3 % 4];
        const int64_t gap = count % 7 < 3 ? 0 : 3;
        const bool columns = count % 2 == 0;
        const int32_t nth = count % 11 == 0 ? 3 : 1;
        at("%s gemm_s8 m=%d n=%d k=%d types %d %d %d gap=%d nth=%d", isa.c_str(), static_cast<int>(s.m), static_cast<int>(s.n), static_cast<int>(s.k),
           x_type, w_type, y_type, static_cast<int>(gap), nth);
        const size_t n = static_cast<size_t>(s.n), k = static_cast<size_t>(s.k);

        size_t* bytes = put(bytes_out, place, size_t{0});
        CHECK_OK(pc_gemm_s8_pack_size(s.n, s.k, bytes));
        const size_t packed_bytes = *bytes_out.own<size_t>();
        check_rest({&bytes_out});
        std::vector<uint8_t> weight(n * k);
        random.fill(weight.data(), weight.size());
        for (size_t i = 0; s.k >= 192 && i < weight.size(); ++i) weight[i] = i % 61 < 2 ? 127 : weight[i] % 60;  // few pairs that saturate
        void* to = packing.place(place, packed_bytes, PC_ALIGNMENT);
        CHECK_OK(pc_gemm_s8_pack(put(w, place, weight), w_type, s.n, s.k, columns ? 1 : s.k, columns ? s.n : 1,
                                 put(w_scale, place, std::vector<float>(n, 0.5f)), to, packed_bytes));
        check_rest({&packing});
        const void* pp = put(packed, place, std::vector<char>(packing.own<char>(), packing.own<char>() + packed_bytes), PC_ALIGNMENT);
        CHECK_OK(pc_gemm_s8_packed_info(pp, packed_bytes, put(n_out, place, int64_t{0}), put(k_out, place, int64_t{0}),
                                        put(kernel_out, place, static_cast<const char*>(nullptr))));
        CHECK(*n_out.own<int64_t>() == s.n && *k_out.own<int64_t>() == s.k);
        check_rest({&n_out, &k_out, &kernel_out});

        pc_gemm_s8_desc d{};
        d.size = sizeof d;
        d.m = s.m;
        d.n = s.n;
        d.k = s.k;
        d.ldx = s.k + gap;
        d.ldy = s.n + gap;
        d.x_type = x_type;
        d.y_type = y_type;
        d.x_scale = x_type == PC_F32 && count % 2 ? 0 : 0.5f;
        d.y_scale = 3;
        if (count % 4 < 2) d.w_zero_points = put(w_zero_points, place, std::vector<int32_t>(n, 17));
        if (y_type == PC_S32) {
          d.x_zero_points = put(x_zero_points, place, std::vector<int32_t>(static_cast<size_t>(s.m), 3));
        } else {
          d.bias = put(bias, place, floats(n, random));
          d.activation = count % 5;
          d.high = 6;
        }
        const pc_gemm_s8_desc* pd = put(desc, place, d);
        CHECK_OK(pc_gemm_s8_workspace_size(pd, pp, packed_bytes, nth, put(bytes_out, place, size_t{0})));
        const size_t workspace_bytes = *bytes_out.own<size_t>();
        check_rest({&bytes_out});
        if (workspace_bytes > workspace_room) {
          workspace.reset();
          workspace.reset(new Guarded("workspace", Access::kWrite, workspace_bytes));
          workspace_room = workspace_bytes;
        }
        void* space = workspace->place(place, workspace_bytes, PC_ALIGNMENT);
        const size_t x_count = span(s.m, s.k, d.ldx);
        const void* px;
        if (x_type == PC_F32) {
          px = put(x, place, floats(x_count, random));
        } else {
          std::vector<uint8_t> values(x_count);
          random.fill(values.data(), values.size());
          px = put(x, place, values);
        }
        void* py = y.place(place, span(s.m, s.n, d.ldy) * size_of(y_type), size_of(y_type));
        for (int32_t ith = 0; ith < nth; ++ith) CHECK_OK(pc_gemm_s8_run(pd, pp, packed_bytes, px, py, space, workspace_bytes, ith, nth));
        check_rest({&y, workspace.get()});
        CHECK(gaps_untouched(y.own<unsigned char>(), s.m, s.n, d.ldy, size_of(y_type)), "a gap was written");
      }
  });
}

TEST(gemm_s4) {
  for_each_isa([](const std::string& isa) {
    constexpr size_t room = size_t{1} << 18;
    Guarded desc("desc", Access::kRead, kRoom), w("w", Access::kRead, room), w_scale("scale", Access::kRead, kRoom),
        packing("packed to write", Access::kWrite, room), packed("packed", Access::kRead, room), x("x", Access::kRead, room),
        y("y", Access::kWrite, room), bias("bias", Access::kRead, kRoom), bytes_out("bytes", Access::kWrite, kRoom);
    std::unique_ptr<Guarded> workspace;
    size_t workspace_room = 0;
    Random random(1);
    int count = 0;
    for (const Shape& s : shapes())
      for (const Place place : kPlaces) {
        ++count;
        const pc_type x_type = count % 3 == 0 ? PC_F32 : count % 3 == 1 ? PC_U8 : PC_S8, y_type = count % 2 ? PC_F32 : PC_U8;
        const int64_t group_size = count % 5 < 3 ? 32 : 0, groups = group_size ? (s.k + 31) / 32 : s.k > 0, gap = count % 7 < 3 ? 0 : 3;
        const int32_t nth = count % 11 == 0 ? 3 : 1;
        at("%s gemm_s4 m=%d n=%d k=%d group=%d gap=%d x_type=%d y_type=%d nth=%d", isa.c_str(), static_cast<int>(s.m), static_cast<int>(s.n),
           static_cast<int>(s.k), static_cast<int>(group_size), static_cast<int>(gap), x_type, y_type, nth);
        const size_t n = static_cast<size_t>(s.n);
        const int64_t ldn = (s.k + 1) / 2 + gap;
        CHECK_OK(pc_gemm_s4_pack_size(s.n, s.k, group_size, put(bytes_out, place, size_t{0})));
        const size_t packed_bytes = *bytes_out.own<size_t>();
        std::vector<uint8_t> weight(span(s.n, (s.k + 1) / 2, ldn));
        random.fill(weight.data(), weight.size());
        CHECK_OK(pc_gemm_s4_pack(put(w, place, weight), s.n, s.k, ldn, group_size,
                                 put(w_scale, place, std::vector<float>(n * static_cast<size_t>(groups), 0.5f)),
                                 packing.place(place, packed_bytes, PC_ALIGNMENT), packed_bytes));
        check_rest({&bytes_out, &packing});
        const void* pp = put(packed, place, std::vector<char>(packing.own<char>(), packing.own<char>() + packed_bytes), PC_ALIGNMENT);

        pc_gemm_s4_desc d{};
        d.size = sizeof d;
        d.m = s.m;
        d.n = s.n;
        d.k = s.k;
        d.ldx = s.k + gap;
        d.ldy = s.n + gap;
        d.x_type = x_type;
        d.y_type = y_type;
        d.x_scale = x_type == PC_F32 && y_type == PC_F32 ? 0 : 0.5f;
        d.y_scale = 3;
        d.bias = put(bias, place, floats(n, random));
        d.activation = count % 5;
        d.high = 6;
        const pc_gemm_s4_desc* pd = put(desc, place, d);
        CHECK_OK(pc_gemm_s4_workspace_size(pd, pp, packed_bytes, nth, put(bytes_out, place, size_t{0})));
        const size_t workspace_bytes = *bytes_out.own<size_t>();
        if (workspace_bytes > workspace_room) {
          workspace.reset();
          workspace.reset(new Guarded("workspace", Access::kWrite, workspace_bytes));
          workspace_room = workspace_bytes;
        }
        void* space = workspace->place(place, workspace_bytes, PC_ALIGNMENT);
        const size_t x_count = span(s.m, s.k, d.ldx);
        std::vector<uint8_t> values(x_count);
        random.fill(values.data(), values.size());
        const void* px = x_type == PC_F32 ? static_cast<const void*>(put(x, place, floats(x_count, random))) : put(x, place, values);
        void* py = y.place(place, span(s.m, s.n, d.ldy) * size_of(y_type), size_of(y_type));
        for (int32_t ith = 0; ith < nth; ++ith) CHECK_OK(pc_gemm_s4_run(pd, pp, packed_bytes, px, py, space, workspace_bytes, ith, nth));
        check_rest({&y, workspace.get()});
        CHECK(gaps_untouched(y.own<unsigned char>(), s.m, s.n, d.ldy, size_of(y_type)), "a gap was written");
      }
  });
}

void run_s4_whatever_it_is(const void* packed, size_t bytes) {
  int64_t n = 0, k = 0;
  if (pc_gemm_s4_packed_info(packed, bytes, &n, &k, nullptr, nullptr) != PC_OK) return;
  for (const int64_t m : {2, 6}) {
    pc_gemm_s4_desc d{};
    d.size = sizeof d;
    d.m = m;
    d.n = n;
    d.k = k;
    d.x_type = PC_U8;
    d.y_type = PC_F32;
    d.x_scale = 1;
    std::vector<uint8_t> x(static_cast<size_t>(m * k + 1));
    std::vector<float> y(static_cast<size_t>(m * n + 1));
    size_t workspace_bytes = 0;
    CHECK_OK(pc_gemm_s4_workspace_size(&d, packed, bytes, 1, &workspace_bytes));
    Aligned workspace(workspace_bytes);
    CHECK_OK(pc_gemm_s4_run(&d, packed, bytes, x.data(), y.data(), workspace.data(), workspace_bytes, 0, 1));
  }
}

TEST(gemm_f32) {
  for_each_isa([](const std::string& isa) {
    constexpr size_t room = size_t{1} << 19;
    Guarded desc("desc", Access::kRead, kRoom), w("w", Access::kRead, room), packing("packed to write", Access::kWrite, room),
        packed("packed", Access::kRead, room), x("x", Access::kRead, room), y("y", Access::kWrite, room), bias("bias", Access::kRead, kRoom),
        bytes_out("bytes", Access::kWrite, kRoom);
    std::unique_ptr<Guarded> workspace;
    size_t workspace_room = 0;
    Random random(1);
    int count = 0;
    for (const Shape& s : shapes())
      for (const Place place : kPlaces) {
        ++count;
        const int64_t gap = count % 7 < 3 ? 0 : 3;
        const bool columns = count % 3 == 0, plain = count % 5 < 3, f16 = !plain && count % 4 < 2;
        const int32_t nth = count % 11 == 0 ? 3 : 1;
        at("%s gemm_f32 m=%d n=%d k=%d gap=%d columns=%d plain=%d f16=%d nth=%d", isa.c_str(), static_cast<int>(s.m), static_cast<int>(s.n),
           static_cast<int>(s.k), static_cast<int>(gap), columns, plain, f16, nth);
        const size_t n = static_cast<size_t>(s.n);
        pc_gemm_f32_desc d{};
        d.size = sizeof d;
        d.m = s.m;
        d.n = s.n;
        d.k = s.k;
        d.ldx = s.k + gap;
        d.ldy = s.n + gap;
        d.ldn = columns ? 1 : s.k + gap;
        d.ldk = columns ? s.n + gap : 1;
        d.bias = put(bias, place, floats(n, random));
        d.activation = count % 5;
        d.high = 6;
        const size_t values = columns ? span(s.k, s.n, d.ldk) : span(s.n, s.k, d.ldn);
        const float* weight = f16 ? nullptr : put(w, place, floats(values, random));
        const uint16_t* halves = f16 ? put(w, place, std::vector<uint16_t>(values, 0x3555)) : nullptr;
        size_t bytes = 0;
        const void* pw = weight;
        if (!plain) {
          CHECK_OK((f16 ? pc_gemm_f16_pack_size : pc_gemm_f32_pack_size)(s.n, s.k, put(bytes_out, place, size_t{0})));
          bytes = *bytes_out.own<size_t>();
          check_rest({&bytes_out});
          void* to = packing.place(place, bytes, PC_ALIGNMENT);
          CHECK_OK(f16 ? pc_gemm_f16_pack(halves, s.n, s.k, d.ldn, d.ldk, to, bytes) : pc_gemm_f32_pack(weight, s.n, s.k, d.ldn, d.ldk, to, bytes));
          check_rest({&packing});
          pw = put(packed, place, std::vector<char>(packing.own<char>(), packing.own<char>() + bytes), PC_ALIGNMENT);
        }
        const pc_gemm_f32_desc* pd = put(desc, place, d);
        CHECK_OK(pc_gemm_f32_workspace_size(pd, nth, put(bytes_out, place, size_t{0})));
        const size_t workspace_bytes = *bytes_out.own<size_t>();
        check_rest({&bytes_out});
        if (workspace_bytes > workspace_room) {
          workspace.reset();
          workspace.reset(new Guarded("workspace", Access::kWrite, workspace_bytes));
          workspace_room = workspace_bytes;
        }
        void* space = workspace->place(place, workspace_bytes, PC_ALIGNMENT);
        const float* px = put(x, place, floats(span(s.m, s.k, d.ldx), random));
        float* py = static_cast<float*>(y.place(place, span(s.m, s.n, d.ldy) * 4, 4));
        for (int32_t ith = 0; ith < nth; ++ith) CHECK_OK(pc_gemm_f32_run(pd, pw, bytes, px, py, space, workspace_bytes, ith, nth));
        check_rest({&y, workspace.get()});
        CHECK(gaps_untouched(y.own<unsigned char>(), s.m, s.n, d.ldy, 4), "a gap was written");
      }
  });
}

// A packed weight is not to be trusted: every bit of its header flipped, random headers, and every length. It is refused, or it is another valid one
// that runs within its bytes.
void run_whatever_it_is(const void* packed, size_t bytes) {
  int64_t n = 0, k = 0;
  if (pc_gemm_s8_packed_info(packed, bytes, &n, &k, nullptr) != PC_OK) return;
  pc_gemm_s8_desc d{};
  d.size = sizeof d;
  d.m = 2;
  d.n = n;
  d.k = k;
  d.x_type = PC_U8;
  d.y_type = PC_S32;
  std::vector<uint8_t> x(static_cast<size_t>(2 * k + 1));
  std::vector<int32_t> y(static_cast<size_t>(2 * n + 1));
  size_t workspace_bytes = 0;
  CHECK_OK(pc_gemm_s8_workspace_size(&d, packed, bytes, 1, &workspace_bytes));
  Aligned workspace(workspace_bytes);
  CHECK_OK(pc_gemm_s8_run(&d, packed, bytes, x.data(), y.data(), workspace.data(), workspace_bytes, 0, 1));
}

void run_f32_whatever_it_is(const void* packed, size_t bytes, int64_t n, int64_t k, bool wanted) {
  pc_gemm_f32_desc d{};
  d.size = sizeof d;
  d.m = 2;
  d.n = n;
  d.k = k;
  std::vector<float> x(static_cast<size_t>(2 * k + 1)), y(static_cast<size_t>(2 * n + 1));
  size_t workspace_bytes = 0;
  CHECK_OK(pc_gemm_f32_workspace_size(&d, 1, &workspace_bytes));
  Aligned workspace(workspace_bytes + (size_t{1} << 20));  // another form may want more
  const pc_status status = pc_gemm_f32_run(&d, packed, bytes, x.data(), y.data(), workspace.data(), workspace.bytes(), 0, 1);
  CHECK(!wanted || status != PC_OK, "a weight of %zu bytes, cut short, was taken", bytes);
}

template <class Run> void corrupt(Guarded& packed, const std::vector<char>& good, const std::string& what, Run run) {
  const void* p = put(packed, Place::kEnd, good, PC_ALIGNMENT);
  char* own = packed.own<char>();
  for (int bit = 0; bit < 8 * 64; ++bit) {
    at("%s with bit %d of the header flipped", what.c_str(), bit);
    own[bit / 8] = static_cast<char>(own[bit / 8] ^ (1 << bit % 8));
    run(p, good.size());
    own[bit / 8] = good[static_cast<size_t>(bit / 8)];
  }
  Random random(1);
  for (int i = 0; i < 20000 / kStride; ++i) {
    at("%s with random header %d", what.c_str(), i);
    for (int64_t changes = random.integer(1, 4); changes > 0; --changes) own[random.integer(8, 63)] = static_cast<char>(random.integer(0, 40));
    run(p, good.size());
    std::memcpy(own, good.data(), 64);
  }
}

TEST(corrupt_packed_weights) {
  for_each_isa([](const std::string& isa) {
    constexpr int64_t n = 17, k = 6;
    Random random(1);
    Guarded packed("packed", Access::kRead, kRoom);
    std::vector<uint8_t> w8(n * k);
    random.fill(w8.data(), w8.size());
    const std::vector<float> wf = floats(n * k, random);
    const std::vector<uint16_t> w16(n * k, 0x3555);

    Aligned s8 = pack_s8(w8.data(), PC_S8, n, k, k, 1, nullptr);
    const std::vector<char> good_s8(s8.data(), s8.data() + s8.bytes());
    corrupt(packed, good_s8, isa + " gemm_s8", run_whatever_it_is);
    uint64_t used;  // of the buffer, as the header says
    std::memcpy(&used, good_s8.data() + 32, sizeof used);
    CHECK(used > 64 && used <= good_s8.size());
    for (size_t bytes = 0; bytes < good_s8.size(); ++bytes) {
      at("%s gemm_s8 cut to %zu bytes", isa.c_str(), bytes);
      const void* p = put(packed, Place::kEnd, std::vector<char>(good_s8.begin(), good_s8.begin() + static_cast<ptrdiff_t>(bytes)), PC_ALIGNMENT);
      CHECK_STATUS(bytes < used ? PC_ERROR_BUFFER : PC_OK, pc_gemm_s8_packed_info(p, bytes, nullptr, nullptr, nullptr));
    }

    const std::vector<float> scales(n, 0.5f);
    Aligned s4 = pack_s4(w8.data(), n, k, 0, scales.data());
    const std::vector<char> good_s4(s4.data(), s4.data() + s4.bytes());
    corrupt(packed, good_s4, isa + " gemm_s4", run_s4_whatever_it_is);
    for (size_t bytes = 0; bytes < good_s4.size(); ++bytes) {
      at("%s gemm_s4 cut to %zu bytes", isa.c_str(), bytes);
      const void* p = put(packed, Place::kEnd, std::vector<char>(good_s4.begin(), good_s4.begin() + static_cast<ptrdiff_t>(bytes)), PC_ALIGNMENT);
      CHECK_STATUS(PC_ERROR_BUFFER, pc_gemm_s4_packed_info(p, bytes, nullptr, nullptr, nullptr, nullptr));
    }

    Aligned f32 = pack_f32(wf.data(), n, k, k, 1), f16 = pack_f16(w16.data(), n, k, k, 1);
    for (Aligned* weight : {&f32, &f16}) {
      const std::string name = isa + (weight == &f32 ? " gemm_f32" : " gemm_f16");
      const std::vector<char> good(weight->data(), weight->data() + weight->bytes());
      corrupt(packed, good, name, [](const void* p, size_t bytes) { run_f32_whatever_it_is(p, bytes, n, k, false); });
      for (size_t bytes = 1; bytes < good.size(); ++bytes) {
        at("%s cut to %zu bytes", name.c_str(), bytes);
        const void* p = put(packed, Place::kEnd, std::vector<char>(good.begin(), good.begin() + static_cast<ptrdiff_t>(bytes)), PC_ALIGNMENT);
        run_f32_whatever_it_is(p, bytes, n, k, true);
      }
    }
  });
}

template <class T> void spmm_between_guards(const std::string& isa) {
  constexpr size_t room = size_t{1} << 18;
  Guarded matrix("w", Access::kRead, kRoom), values("data", Access::kRead, room), indices("indices", Access::kRead, kRoom),
      indptr("indptr", Access::kRead, kRoom), scale("scale", Access::kRead, kRoom), packing("packed to write", Access::kWrite, room),
      packed("packed", Access::kRead, room), desc("desc", Access::kRead, kRoom), x("x", Access::kRead, room), y("y", Access::kWrite, room),
      bias("bias", Access::kRead, kRoom), bytes_out("bytes", Access::kWrite, kRoom), workspace("workspace", Access::kWrite, size_t{1} << 21);
  Random random(1);
  int turn = 0;
  for (const Place place : kPlaces)
    for (const std::pair<int64_t, int64_t>& b : {std::pair<int64_t, int64_t>{1, 1}, {1, 4}, {4, 1}, {4, 4}, {3, 2}})
      for (const Shape& s : {Shape{1, 1, 1}, Shape{1, 33, 70}, Shape{2, 20, 300}, Shape{3, 5, 0}, Shape{0, 3, 5}, Shape{7, 17, 31}, Shape{17, 16, 65},
                             Shape{66, 9, 150}})
        for (const bool transposed : {false, true}) {
          at("%s spmm %lld x %lld x %lld of %d, blocks %d x %d, transposed %d", isa.c_str(), static_cast<long long>(s.m), static_cast<long long>(s.n),
             static_cast<long long>(s.k), static_cast<int>(sizeof(T)), static_cast<int>(b.first), static_cast<int>(b.second), transposed);
          const auto w = Sparse<T>::random(s.n, s.k, b.first, b.second, turn % 2 ? 50 : 90, random);
          pc_sparse_matrix m = w.matrix();
          m.data = put(values, place, w.data);
          m.indices = put(indices, place, w.indices);
          m.indptr = put(indptr, place, w.indptr);
          if (m.scale) m.scale = put(scale, place, w.scale);
          const pc_sparse_matrix* pm = put(matrix, place, m);
          size_t* bytes = put(bytes_out, place, size_t{0});
          CHECK_OK(pc_spmm_pack_size(pm, bytes));
          const size_t packed_bytes = *bytes;
          CHECK_OK(pc_spmm_pack(pm, packing.place(place, packed_bytes, PC_ALIGNMENT), packed_bytes));
          check_rest({&packing, &bytes_out});
          const void* p = put(packed, place, std::vector<char>(packing.own<char>(), packing.own<char>() + packed_bytes), PC_ALIGNMENT);
          pc_spmm_desc d = sparse_desc(w, s.m);
          d.x_transposed = d.y_transposed = transposed;
          d.ldx = (transposed ? s.m : s.k) + 3;
          d.ldy = (transposed ? s.m : s.n) + 5;
          const int kind = ++turn % 3;
          if (sizeof(T) == 1 && kind != 0) {
            d.x_type = kind == 1 ? PC_F32 : PC_U8;
            d.y_type = kind == 1 ? PC_F32 : PC_U8;
            d.x_scale = d.y_scale = 0.1f;
          }
          if (d.y_type != PC_S32) {
            d.activation = turn % 5;
            d.bias = put(bias, place, floats(static_cast<size_t>(s.n), random));
          }
          const int64_t x_rows = transposed ? s.k : s.m, x_columns = transposed ? s.m : s.k, y_rows = transposed ? s.n : s.m,
                        y_columns = transposed ? s.m : s.n;
          const size_t y_size = size_of(d.y_type);
          const void* px = d.x_type == PC_F32 ? static_cast<const void*>(put(x, place, floats(span(x_rows, x_columns, d.ldx), random)))
                                              : put(x, place, std::vector<uint8_t>(span(x_rows, x_columns, d.ldx), 200));
          void* py = y.place(place, span(y_rows, y_columns, d.ldy) * y_size, y_size);
          const pc_spmm_desc* pd = put(desc, place, d);
          const int32_t nth = turn % 2 + 1;
          CHECK_OK(pc_spmm_workspace_size(pd, p, packed_bytes, nth, bytes));
          void* pw = workspace.place(place, *bytes, PC_ALIGNMENT);
          for (int32_t ith = 0; ith < nth; ++ith) CHECK_OK(pc_spmm_run(pd, p, packed_bytes, px, py, pw, *bytes, ith, nth));
          check_rest({&y, &workspace});
          CHECK(y_columns == 0 || gaps_untouched(y.own<unsigned char>(), y_rows, y_columns, d.ldy, y_size), "a gap was written");
        }
}

TEST(spmm) {
  for_each_isa([](const std::string& isa) {
    spmm_between_guards<float>(isa);
    spmm_between_guards<int8_t>(isa);
  });
}

void run_sparse_whatever_it_is(const void* packed, size_t bytes) {
  int64_t n = 0, k = 0;
  pc_type type = 0;
  if (pc_spmm_packed_info(packed, bytes, &n, &k, &type, nullptr) != PC_OK) return;
  for (const int64_t m : {1, 7, 17}) {
    pc_spmm_desc d{};
    d.size = sizeof d;
    d.m = m;
    d.n = n;
    d.k = k;
    d.x_type = type == PC_F32 ? PC_F32 : PC_U8;
    d.y_type = type == PC_F32 ? PC_F32 : PC_S32;
    std::vector<float> x(static_cast<size_t>(m * k + 1)), y(static_cast<size_t>(m * n + 1));
    size_t workspace_bytes = 0;
    if (pc_spmm_workspace_size(&d, packed, bytes, 1, &workspace_bytes) != PC_OK || workspace_bytes > size_t{1} << 24) continue;
    Aligned workspace(workspace_bytes);
    const pc_status status = pc_spmm_run(&d, packed, bytes, x.data(), y.data(), workspace.data(), workspace_bytes, 0, 1);
    CHECK(status == PC_OK || status == PC_ERROR_FORMAT, "%s", pc_last_error());
  }
}

// Its header, as above, and everything behind it: the table of groups and the positions in them are bytes that kernels follow.
template <class T> void corrupt_sparse(const std::string& isa, int64_t r, int64_t c) {
  Random random(1);
  Guarded packed("packed", Access::kRead, kRoom);
  Aligned good_packed = pack_sparse(Sparse<T>::random(17, 70, r, c, c == 1 ? 80 : 40, random).matrix());  // sparse enough for columns
  const std::vector<char> good(good_packed.data(), good_packed.data() + good_packed.bytes());
  corrupt(packed, good, isa + " spmm", run_sparse_whatever_it_is);
  const void* p = put(packed, Place::kEnd, good, PC_ALIGNMENT);
  char* own = packed.own<char>();
  for (int i = 0; i < 4000 / kStride; ++i) {
    at("%s spmm with random bytes %d", isa.c_str(), i);
    for (int64_t changes = random.integer(1, 4); changes > 0; --changes)
      own[random.integer(64, static_cast<int64_t>(good.size()) - 1)] = static_cast<char>(random.bits());
    run_sparse_whatever_it_is(p, good.size());
    std::memcpy(own, good.data(), good.size());
  }
  for (size_t bytes = 0; bytes < good.size(); bytes += 7) {
    at("%s spmm cut to %zu bytes", isa.c_str(), bytes);
    const void* cut = put(packed, Place::kEnd, std::vector<char>(good.begin(), good.begin() + static_cast<ptrdiff_t>(bytes)), PC_ALIGNMENT);
    CHECK_STATUS(PC_ERROR_BUFFER, pc_spmm_packed_info(cut, bytes, nullptr, nullptr, nullptr, nullptr));
  }
}

TEST(corrupt_sparse_weights) {
  for_each_isa([](const std::string& isa) {
    corrupt_sparse<float>(isa, 1, 1);
    corrupt_sparse<float>(isa, 4, 1);
    corrupt_sparse<int8_t>(isa, 1, 1);
    corrupt_sparse<int8_t>(isa, 1, 4);
    corrupt_sparse<int8_t>(isa, 4, 1);
  });
}

}  // namespace
