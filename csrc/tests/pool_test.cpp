// The pooling family between guard pages, in parts, and misused. What it computes is compared with its definition by tests/test_pooling.py.
#include "guard.h"

using namespace test;

namespace {

const bool installed = (install_guard_handler(), true);

size_t size_of(pc_type type) { return type == PC_F32 ? 4 : 1; }

pc_pool_desc pool_desc(int64_t height, int64_t width, int64_t channels, int64_t kernel, int64_t stride, int64_t padding, int32_t mode, pc_type type,
                       pc_type y_type) {
  pc_pool_desc d{};
  d.size = sizeof d;
  d.batch = 2;
  d.height = height;
  d.width = width;
  d.channels = channels;
  d.kernel_height = d.kernel_width = kernel;
  d.stride_height = d.stride_width = stride;
  d.dilation_height = d.dilation_width = 1;
  d.top = d.left = padding;
  d.out_height = (height + 2 * padding - kernel) / stride + 1;
  d.out_width = (width + 2 * padding - kernel) / stride + 1;
  d.mode = mode;
  d.x_type = type;
  d.y_type = y_type;
  if (type != PC_F32 && mode != PC_POOL_MAX) {
    d.x_scale = 0.5f;
    d.x_zero_point = 9;
    if (y_type != PC_F32) d.y_scale = 0.4f;
  }
  return d;
}

TEST(pool_touches_nothing_else) {
  for_each_isa([](const std::string& isa) {
    Guarded desc("desc", Access::kRead, kRoom), in("x", Access::kRead, kRoom), out("y", Access::kWrite, kRoom);
    Random random(1);
    for (const Place place : kPlaces)
      for (const int64_t channels : {1, 3, 15, 16, 17, 63, 64, 65, 130})
        for (const pc_type type : {PC_F32, PC_U8, PC_S8})
          for (const int32_t mode : {PC_POOL_MAX, PC_POOL_AVERAGE, PC_POOL_AVERAGE_PADDED})
            for (const pc_type y_type : {type, static_cast<pc_type>(PC_F32)})
              for (const int64_t kernel : {1, 2, 3}) {
                if (mode == PC_POOL_MAX && y_type != type) continue;
                const pc_pool_desc d = pool_desc(4, 5, channels, kernel, 2, kernel / 2, mode, type, y_type);
                at("%s pool channels=%d type=%d mode=%d y_type=%d kernel=%d", isa.c_str(), static_cast<int>(channels), type, mode, y_type,
                   static_cast<int>(kernel));
                const size_t values = static_cast<size_t>(2 * 4 * 5 * channels),
                             results = static_cast<size_t>(2 * d.out_height * d.out_width * channels);
                std::vector<uint8_t> bytes(values * size_of(type));
                if (type == PC_F32)
                  for (size_t i = 0; i < values; ++i) {
                    const float value = random.real(-3, 3);
                    std::memcpy(&bytes[4 * i], &value, 4);
                  }
                else
                  random.fill(bytes.data(), bytes.size());
                const void* x = put(in, place, bytes, size_of(type));
                const pc_pool_desc* pd = put(desc, place, d);
                std::vector<char> whole;
                for (const int32_t nth : {1, 3, 200}) {
                  void* y = out.place(place, results * size_of(y_type), size_of(y_type));
                  for (int32_t ith = 0; ith < nth; ++ith) CHECK_OK(pc_pool_run(pd, x, y, ith, nth));
                  check_rest({&out});
                  const std::vector<char> got(out.own<char>(), out.own<char>() + results * size_of(y_type));
                  if (nth == 1) whole = got;
                  CHECK(got == whole, "nth=%d differs", nth);
                }
                check_kernel("pool", isa);
              }
  });
}

TEST(add_touches_nothing_else) {
  for_each_isa([](const std::string& isa) {
    Guarded desc("desc", Access::kRead, kRoom), in_a("a", Access::kRead, kRoom), in_b("b", Access::kRead, kRoom), out("y", Access::kWrite, kRoom);
    Random random(2);
    for (const Place place : kPlaces)
      for (int64_t count = 0; count <= 140; count += kStride)
        for (const pc_type type : {PC_F32, PC_U8, PC_S8})
          for (const pc_type y_type : {type, static_cast<pc_type>(PC_F32)}) {
            at("%s add count=%d type=%d y_type=%d", isa.c_str(), static_cast<int>(count), type, y_type);
            pc_add_desc d{};
            d.size = sizeof d;
            d.count = count;
            d.type = type;
            d.y_type = y_type;
            d.a_scale = d.b_scale = d.y_scale = 0.5f;
            const std::vector<uint8_t> bytes(static_cast<size_t>(count) * size_of(type), 0x3f);
            const void *a = put(in_a, place, bytes, size_of(type)), *b = put(in_b, place, bytes, size_of(type));
            const pc_add_desc* pd = put(desc, place, d);
            for (const int32_t nth : {1, 2}) {
              void* y = out.place(place, static_cast<size_t>(count) * size_of(y_type), size_of(y_type));
              for (int32_t ith = 0; ith < nth; ++ith) CHECK_OK(pc_add_run(pd, a, b, y, ith, nth));
              check_rest({&out});
            }
          }
  });
}

alignas(64) uint8_t x[2 * 4 * 5 * 8 * 4], y[2 * 4 * 5 * 8 * 4], a[64], b[64];

TEST(pool_misused) {
  const auto expect = [&](pc_status wanted, void (*change)(pc_pool_desc&), const void* px = x, void* py = y) {
    pc_pool_desc d = pool_desc(4, 5, 8, 3, 1, 1, PC_POOL_AVERAGE_PADDED, PC_U8, PC_U8);
    change(d);
    CHECK_STATUS(wanted, pc_pool_run(&d, px, py, 0, 1));
  };
  const auto same = [](pc_pool_desc&) {};
  expect(PC_OK, same);
  expect(PC_ERROR_NULL, same, nullptr);
  expect(PC_ERROR_NULL, same, x, nullptr);
  expect(PC_ERROR_OVERLAP, same, x, x + 100);
  expect(PC_ERROR_STRUCT, [](pc_pool_desc& d) { d.size = 8; });
  expect(PC_ERROR_SHAPE, [](pc_pool_desc& d) { d.height = -1; });
  expect(PC_ERROR_SHAPE, [](pc_pool_desc& d) { d.kernel_width = 0; });
  expect(PC_ERROR_SHAPE, [](pc_pool_desc& d) { d.stride_height = 0; });
  expect(PC_ERROR_SHAPE, [](pc_pool_desc& d) { d.top = 3; });
  expect(PC_ERROR_SHAPE, [](pc_pool_desc& d) { d.left = -1; });
  expect(PC_ERROR_SHAPE, [](pc_pool_desc& d) { d.out_height = 6; });
  expect(PC_ERROR_SHAPE, [](pc_pool_desc& d) { d.out_width = int64_t{1} << 40; });
  expect(PC_ERROR_OVERFLOW, [](pc_pool_desc& d) { d.batch = d.channels = (int64_t{1} << 31) - 1; });
  expect(PC_ERROR_OVERFLOW, [](pc_pool_desc& d) { d.kernel_height = d.kernel_width = 1 << 12; });
  expect(PC_ERROR_OVERFLOW, [](pc_pool_desc& d) {
    d.mode = PC_POOL_MAX;
    d.kernel_height = d.dilation_height = (int64_t{1} << 31) - 1;
  });
  expect(PC_ERROR_VALUE, [](pc_pool_desc& d) { d.mode = 3; });
  expect(PC_ERROR_VALUE, [](pc_pool_desc& d) { d.dilation_width = 2; });
  expect(PC_ERROR_VALUE, [](pc_pool_desc& d) {
    d.x_type = d.y_type = PC_F32;
    d.dilation_height = 2;
  });
  expect(PC_OK, [](pc_pool_desc& d) {
    d.y_type = PC_F32;
    d.y_zero_point = INT32_MIN;  // not looked at
  });
  expect(PC_ERROR_VALUE, [](pc_pool_desc& d) { d.x_scale = -1; });
  expect(PC_ERROR_VALUE, [](pc_pool_desc& d) { d.x_scale = 0; });
  expect(PC_ERROR_VALUE, [](pc_pool_desc& d) { d.y_scale = std::numeric_limits<float>::quiet_NaN(); });
  expect(PC_ERROR_VALUE, [](pc_pool_desc& d) { d.x_zero_point = 256; });
  expect(PC_ERROR_TYPE, [](pc_pool_desc& d) { d.x_type = PC_S32; });
  expect(PC_ERROR_TYPE, [](pc_pool_desc& d) { d.y_type = PC_S8; });
  expect(PC_ERROR_TYPE, [](pc_pool_desc& d) {
    d.mode = PC_POOL_MAX;
    d.y_type = PC_F32;
  });
  CHECK_STATUS(PC_ERROR_NULL, pc_pool_run(nullptr, x, y, 0, 1));
  pc_pool_desc d = pool_desc(4, 5, 8, 3, 1, 1, PC_POOL_MAX, PC_F32, PC_F32);
  CHECK_STATUS(PC_ERROR_ALIGNMENT, pc_pool_run(&d, x + 1, y, 0, 1));
  CHECK_STATUS(PC_ERROR_VALUE, pc_pool_run(&d, x, y, 2, 2));
}

TEST(add_misused) {
  const auto expect = [&](pc_status wanted, void (*change)(pc_add_desc&), const void* pa = a, void* py = y) {
    pc_add_desc d{};
    d.size = sizeof d;
    d.count = 16;
    d.type = d.y_type = PC_U8;
    d.a_scale = d.b_scale = d.y_scale = 0.5f;
    change(d);
    CHECK_STATUS(wanted, pc_add_run(&d, pa, b, py, 0, 1));
  };
  const auto same = [](pc_add_desc&) {};
  expect(PC_OK, same);
  expect(PC_ERROR_NULL, same, nullptr);
  expect(PC_ERROR_OVERLAP, same, a, b + 15);
  expect(PC_ERROR_STRUCT, [](pc_add_desc& d) { d.size = 0; });
  expect(PC_ERROR_SHAPE, [](pc_add_desc& d) { d.count = -1; });
  expect(PC_ERROR_TYPE, [](pc_add_desc& d) { d.type = PC_S32; });
  expect(PC_ERROR_TYPE, [](pc_add_desc& d) { d.y_type = PC_S8; });
  expect(PC_ERROR_VALUE, [](pc_add_desc& d) { d.activation = PC_ACTIVATION_GELU; });
  expect(PC_ERROR_VALUE, [](pc_add_desc& d) {
    d.activation = PC_ACTIVATION_CLAMP;
    d.low = 1;
  });
  expect(PC_ERROR_VALUE, [](pc_add_desc& d) { d.b_scale = 0; });
  expect(PC_ERROR_VALUE, [](pc_add_desc& d) { d.y_zero_point = -1; });
  expect(PC_ERROR_VALUE, [](pc_add_desc& d) {
    d.a_scale = 1e38f;
    d.y_scale = 1e-3f;
  });
  expect(PC_ERROR_ALIGNMENT, [](pc_add_desc& d) { d.type = d.y_type = PC_F32; }, a + 2);
}

}  // namespace
