// Depthwise convolution against an int64 reference (int8) and the same sums in order (float32): all small images and kernels by a covering sample,
// every operand between inaccessible pages, on every instruction set.
#include "conv.h"

namespace {

using namespace test;

struct Image {
  pc_conv_desc d;
  int64_t oh, ow;
};

// Output pixel by output pixel: calls tap(index of x or -1 beyond the image, tap) for the taps of each.
template <class Tap> void for_taps(const Image& m, int64_t b, int64_t oy, int64_t ox, int64_t c, Tap tap) {
  const pc_conv_desc& d = m.d;
  const auto one = [](int64_t v) { return v ? v : 1; };
  for (int64_t ky = 0; ky < d.kernel_height; ++ky)
    for (int64_t kx = 0; kx < d.kernel_width; ++kx) {
      const int64_t iy = oy * one(d.stride_height) - d.pad_top + ky * one(d.dilation_height);
      const int64_t ix = ox * one(d.stride_width) - d.pad_left + kx * one(d.dilation_width);
      const bool in = iy >= 0 && iy < d.height && ix >= 0 && ix < d.width;
      tap(in ? ((b * d.height + iy) * d.width + ix) * d.channels + c : -1, ky * d.kernel_width + kx);
    }
}

template <class Each> void for_outputs(const Image& m, Each each) {
  int64_t i = 0;
  for (int64_t b = 0; b < m.d.batch; ++b)
    for (int64_t oy = 0; oy < m.oh; ++oy)
      for (int64_t ox = 0; ox < m.ow; ++ox)
        for (int64_t o = 0; o < m.d.outputs; ++o) each(b, oy, ox, o, i++);
}

// The sums, the last step, and float32 with the padding as zeros.
void expect_s8(const Image& m, const void* x, const int8_t* w, const float* scale, void* y) {
  const pc_conv_desc& d = m.d;
  const int64_t taps = d.kernel_height * d.kernel_width, times = d.outputs / d.channels;
  for_outputs(m, [&](int64_t b, int64_t oy, int64_t ox, int64_t o, int64_t i) {
    int64_t acc = 0;
    for_taps(m, b, oy, ox, o / times, [&](int64_t at, int64_t t) {
      if (at < 0) return;
      const int32_t value = d.x_type == PC_F32 ? reference::rounded(static_cast<const float*>(x)[at] * (1.0f / d.x_scale), d.x_zero_point, {0, 255})
                                               : q8_at(x, d.x_type, at);
      acc += static_cast<int64_t>(value - d.x_zero_point) * w[o * taps + t];
    });
    last_step(d, static_cast<int32_t>(acc), scale[o], d.bias ? d.bias + o : nullptr, y, i);
  });
}

void expect_f32(const Image& m, const float* x, const float* w, bool fused, float* y) {
  const pc_conv_desc& d = m.d;
  const int64_t taps = d.kernel_height * d.kernel_width, times = d.outputs / d.channels;
  for_outputs(m, [&](int64_t b, int64_t oy, int64_t ox, int64_t o, int64_t i) {
    float acc = 0;
    for_taps(m, b, oy, ox, o / times, [&](int64_t at, int64_t t) {
      const float value = at < 0 ? 0.0f : x[at];
      acc = fused ? std::fma(value, w[o * taps + t], acc) : acc + value * w[o * taps + t];
    });
    if (d.bias) acc = acc + d.bias[o];
    y[i] = reference::activate(d.activation, acc, d.low, d.high);
  });
}

// One convolution, with guarded operands, in nth parts. Gives y.
pc_status run(const Image& m, Aligned& packed, const void* x, void* y, int32_t nth) {
  size_t bytes = 0;
  const pc_status status = pc_depthwise_workspace_size(&m.d, packed.data(), packed.bytes(), nth, &bytes);
  if (status != PC_OK) return status;
  Fenced workspace(bytes, true, PC_ALIGNMENT);
  for (int32_t ith = nth; ith-- > 0;) {
    const pc_status part = pc_depthwise_run(&m.d, packed.data(), packed.bytes(), x, y, workspace.as<void>(), bytes, ith, nth);
    if (part != PC_OK) return part;
  }
  CHECK(workspace.rest_untouched());
  return PC_OK;
}

Aligned pack(const Image& m, const void* w, pc_type type, const float* scale) {
  size_t bytes = 0;
  CHECK_OK(pc_depthwise_pack_size(type, m.d.outputs, m.d.kernel_height, m.d.kernel_width, &bytes));
  Aligned packed(bytes);
  CHECK_OK(pc_depthwise_pack(w, type, m.d.outputs, m.d.kernel_height, m.d.kernel_width, scale, packed.data(), bytes));
  return packed;
}

std::string text_of(const Image& m) {
  const pc_conv_desc& d = m.d;
  char text[256];
  std::snprintf(text, sizeof text,
                "%lldx%lldx%lldx%lld -> %lld, kernel %lldx%lld stride %lld %lld dilation %lld %lld pads %lld %lld %lld %lld types %d %d act %d zx %d",
                (long long)d.batch, (long long)d.height, (long long)d.width, (long long)d.channels, (long long)d.outputs, (long long)d.kernel_height,
                (long long)d.kernel_width, (long long)d.stride_height, (long long)d.stride_width, (long long)d.dilation_height,
                (long long)d.dilation_width, (long long)d.pad_top, (long long)d.pad_left, (long long)d.pad_bottom, (long long)d.pad_right, d.x_type,
                d.y_type, d.activation, d.x_zero_point);
  return text;
}

void check_s8(const std::string& isa, Random& random, Image& m) {
  pc_conv_desc& d = m.d;
  if (pc_conv_output_size(&d, &m.oh, &m.ow) != PC_OK) return;
  at("%s %s", isa.c_str(), text_of(m).c_str());
  const int64_t taps = d.kernel_height * d.kernel_width, count = d.batch * m.oh * m.ow * d.outputs;
  const bool at_end = random.integer(0, 1) != 0, extremes = random.integer(0, 2) == 0;
  Fenced x(static_cast<size_t>(d.batch * d.height * d.width * d.channels) * conv_size_of(d.x_type), at_end, 4);
  Fenced y(static_cast<size_t>(count) * conv_size_of(d.y_type), at_end, conv_size_of(d.y_type));
  Fenced x8(x.bytes() / conv_size_of(d.x_type), at_end);
  std::vector<int8_t> w(static_cast<size_t>(d.outputs * taps));
  std::vector<float> scale(static_cast<size_t>(d.outputs)), bias(static_cast<size_t>(d.outputs));
  random.fill(w.data(), w.size());
  if (extremes)
    for (auto& v : w) v = random.integer(0, 1) ? -128 : 127;
  for (auto& v : scale) v = random.real(0.001f, 0.02f);
  for (auto& v : bias) v = random.real(-2, 2);
  if (random.integer(0, 15) == 0) bias[0] = 1e9f;  // saturates as an int32
  d.bias = d.y_type != PC_S32 && random.integer(0, 1) ? bias.data() : nullptr;
  const void* input = x.as<void>();
  if (d.x_type == PC_F32) {
    for (size_t i = 0; i < x.bytes() / 4; ++i) x.as<float>()[i] = random.real(-1, 1);
  } else {
    random.fill(x8.as<uint8_t>(), x8.bytes());
    if (extremes) std::memset(x8.as<void>(), random.integer(0, 1) ? 0xff : 0x80, x8.bytes());
    input = x8.as<void>();
  }
  std::vector<char> wanted(y.bytes());
  expect_s8(m, input, w.data(), scale.data(), wanted.data());
  Aligned packed = pack(m, w.data(), PC_S8, scale.data());
  CHECK_OK(run(m, packed, input, y.as<void>(), static_cast<int32_t>(random.integer(1, 3))));
  if (count) check_kernel("depthwise_s8", isa);
  bool same = y.rest_untouched();
  for (int64_t i = 0; i < count && same; ++i)
    same = d.y_type == PC_F32 ? same_bits(y.as<float>()[i], reinterpret_cast<float*>(wanted.data())[i])
                              : std::memcmp(y.as<char>() + static_cast<size_t>(i) * conv_size_of(d.y_type),
                                            wanted.data() + static_cast<size_t>(i) * conv_size_of(d.y_type), conv_size_of(d.y_type)) == 0;
  CHECK(same);
}

void check_f32(const std::string& isa, Random& random, Image& m) {
  pc_conv_desc& d = m.d;
  d.x_type = d.y_type = PC_F32;
  d.x_zero_point = d.y_zero_point = 0;
  if (pc_conv_output_size(&d, &m.oh, &m.ow) != PC_OK) return;
  at("%s %s", isa.c_str(), text_of(m).c_str());
  const int64_t taps = d.kernel_height * d.kernel_width, count = d.batch * m.oh * m.ow * d.outputs;
  const bool at_end = random.integer(0, 1) != 0;
  Fenced x(static_cast<size_t>(d.batch * d.height * d.width * d.channels) * 4, at_end, 4), y(static_cast<size_t>(count) * 4, at_end, 4);
  std::vector<float> w(static_cast<size_t>(d.outputs * taps)), bias(static_cast<size_t>(d.outputs)), wanted(static_cast<size_t>(count));
  for (size_t i = 0; i < x.bytes() / 4; ++i) x.as<float>()[i] = random.real(-1, 1);
  for (auto& v : w) v = random.real(-1, 1);
  for (auto& v : bias) v = random.real(-1, 1);
  d.bias = random.integer(0, 1) ? bias.data() : nullptr;
  expect_f32(m, x.as<float>(), w.data(), isa != "scalar" && isa != "avx512vnni_simde", wanted.data());
  Aligned packed = pack(m, w.data(), PC_F32, nullptr);
  CHECK_OK(run(m, packed, x.as<void>(), y.as<void>(), static_cast<int32_t>(random.integer(1, 3))));
  if (count) check_kernel("depthwise_f32", isa);
  bool same = y.rest_untouched();
  for (int64_t i = 0; i < count && same; ++i) same = same_bits(y.as<float>()[i], wanted[static_cast<size_t>(i)]);
  CHECK(same);
}

Image random_image(Random& random) {
  Image m{};
  pc_conv_desc& d = m.d;
  d.size = sizeof d;
  const auto pick = [&](int64_t low, int64_t high) { return random.integer(low, high); };
  d.batch = pick(0, 9) == 0 ? 2 : 1;
  d.height = pick(1, 9);
  d.width = pick(1, 9);
  d.channels = pick(1, 70);
  if (pick(0, 3) == 0) d.channels = 16 * pick(1, 9);
  d.outputs = d.channels * (pick(0, 9) == 0 ? pick(2, 3) : 1);
  if (pick(0, 1)) {  // those with kernels of their own
    d.kernel_height = d.kernel_width = pick(0, 1) ? 3 : 5;
    d.stride_height = d.stride_width = pick(1, 2);
    if (pick(0, 2) == 0) d.width = pick(9, 24);
  } else {
    d.kernel_height = pick(1, 5);
    d.kernel_width = pick(1, 5);
    d.stride_height = pick(1, 3);
    d.stride_width = pick(1, 3);
    d.dilation_height = pick(0, 2);
    d.dilation_width = pick(0, 2);
  }
  int64_t* pads[] = {&d.pad_top, &d.pad_left, &d.pad_bottom, &d.pad_right};
  const int64_t most = pick(0, 3);
  for (int64_t* p : pads) *p = pick(0, most);
  d.x_type = static_cast<pc_type>(pick(0, 3) == 0 ? int64_t{PC_F32} : pick(PC_U8, PC_S8));
  d.y_type = static_cast<pc_type>(pick(0, 1) ? int64_t{PC_U8} : pick(PC_F32, d.x_type == PC_F32 ? int64_t{PC_S8} : int64_t{PC_S32}));
  d.x_scale = random.real(0.005f, 0.05f);
  d.y_scale = random.real(0.01f, 0.5f);
  const int64_t low = d.x_type == PC_S8 ? -128 : 0, y_low = d.y_type == PC_S8 ? -128 : 0;
  d.x_zero_point = static_cast<int32_t>(pick(0, 2) ? pick(low, low + 255) : low + 255 * pick(0, 1));
  d.y_zero_point = static_cast<int32_t>(pick(y_low, y_low + 255));
  if (d.y_type != PC_S32 && pick(0, 1)) {
    d.activation = static_cast<pc_activation>(pick(PC_ACTIVATION_CLAMP, PC_ACTIVATION_GELU));
    d.low = 0;
    d.high = random.real(0, 6);
  }
  return m;
}

TEST(depthwise_s8) {
  for_each_isa([](const std::string& isa) {
    Random random(11);
    for (int i = 0; i < 2500 / kStride; ++i) {
      Image m = random_image(random);
      check_s8(isa, random, m);
    }
  });
}

TEST(depthwise_f32) {
  for_each_isa([](const std::string& isa) {
    Random random(12);
    for (int i = 0; i < 2000 / kStride; ++i) {
      Image m = random_image(random);
      check_f32(isa, random, m);
    }
  });
}

// ---- dense, by the int8 GEMM over gathered rows

void expect_dense(const Image& m, int64_t groups, const void* x, const int8_t* w, const float* scale, void* y) {
  const pc_conv_desc& d = m.d;
  const int64_t taps = d.kernel_height * d.kernel_width, channels = d.channels / groups, outputs = d.outputs / groups;
  for_outputs(m, [&](int64_t b, int64_t oy, int64_t ox, int64_t o, int64_t i) {
    int64_t acc = 0;
    for_taps(m, b, oy, ox, o / outputs * channels, [&](int64_t at, int64_t t) {
      for (int64_t c = 0; at >= 0 && c < channels; ++c)
        acc += static_cast<int64_t>(q8_at(x, d.x_type, at + c) - d.x_zero_point) * w[(o * taps + t) * channels + c];
    });
    last_step(d, static_cast<int32_t>(acc), scale[o], d.bias ? d.bias + o : nullptr, y, i);
  });
}

void check_dense(const std::string& isa, Random& random, Image& m) {
  pc_conv_desc& d = m.d;
  const int64_t groups = random.integer(1, 3);
  d.channels = groups * random.integer(1, random.integer(0, 3) ? 5 : 70);
  d.outputs = groups * random.integer(1, 40);
  d.x_type = static_cast<pc_type>(random.integer(PC_U8, PC_S8));
  d.x_zero_point = static_cast<int32_t>(d.x_type == PC_S8 ? random.integer(-128, 127) : random.integer(0, 255));
  if (pc_conv_output_size(&d, &m.oh, &m.ow) != PC_OK) return;
  at("%s %s, groups %lld", isa.c_str(), text_of(m).c_str(), static_cast<long long>(groups));
  const int64_t taps = d.kernel_height * d.kernel_width, k = taps * d.channels / groups, n = d.outputs / groups;
  const size_t y_size = conv_size_of(d.y_type);
  const bool at_end = random.integer(0, 1) != 0;
  Fenced x(static_cast<size_t>(d.batch * d.height * d.width * d.channels), at_end);
  Fenced y(static_cast<size_t>(d.batch * m.oh * m.ow * d.outputs) * y_size, at_end, y_size);
  random.fill(x.as<uint8_t>(), x.bytes());
  std::vector<int8_t> w(static_cast<size_t>(d.outputs * k));
  std::vector<float> scale(static_cast<size_t>(d.outputs)), bias(scale.size());
  random.fill(w.data(), w.size());
  for (auto& v : scale) v = random.real(0.001f, 0.02f);
  for (auto& v : bias) v = random.real(-2, 2);
  d.bias = d.y_type != PC_S32 && random.integer(0, 1) ? bias.data() : nullptr;
  std::vector<char> wanted(y.bytes());
  expect_dense(m, groups, x.as<void>(), w.data(), scale.data(), wanted.data());
  const int32_t nth = static_cast<int32_t>(random.integer(1, 3));
  for (int64_t g = 0; g < groups; ++g) {
    size_t bytes = 0, work = 0;
    CHECK_OK(pc_gemm_s8_pack_size(n, k, &bytes));
    Aligned packed(bytes);
    CHECK_OK(pc_gemm_s8_pack(w.data() + g * n * k, PC_S8, n, k, k, 1, scale.data() + g * n, packed.data(), bytes));
    CHECK_OK(pc_conv_s8_workspace_size(&d, groups, packed.data(), bytes, nth, &work));
    Fenced workspace(work, true, PC_ALIGNMENT);
    for (int32_t ith = nth; ith-- > 0;)
      CHECK_OK(pc_conv_s8_run(&d, g, groups, packed.data(), bytes, nullptr, x.as<void>(), y.as<void>(), workspace.as<void>(), work, ith, nth));
    CHECK(workspace.rest_untouched());
  }
  CHECK(y.rest_untouched());
  bool same = true;
  for (size_t i = 0; i < y.bytes() / y_size && same; ++i)
    same = d.y_type == PC_F32 ? same_bits(y.as<float>()[i], reinterpret_cast<float*>(wanted.data())[i])
                              : std::memcmp(y.as<char>() + i * y_size, wanted.data() + i * y_size, y_size) == 0;
  CHECK(same);
}

TEST(conv_s8) {
  for_each_isa([](const std::string& isa) {
    Random random(13);
    for (int i = 0; i < 1200 / kStride; ++i) {
      Image m = random_image(random);
      check_dense(isa, random, m);
    }
  });
}

TEST(misuse) {
  Image m{};
  pc_conv_desc& d = m.d;
  d = {};
  d.size = sizeof d;
  d.batch = 1;
  d.height = d.width = 5;
  d.channels = d.outputs = 4;
  d.kernel_height = d.kernel_width = 3;
  d.x_type = d.y_type = PC_U8;
  d.x_scale = d.y_scale = 1;
  std::vector<int8_t> w(36, 1);
  std::vector<uint8_t> x(100), y(36);
  Aligned packed = pack(m, w.data(), PC_S8, nullptr);
  const auto status = [&](const pc_conv_desc& changed, const void* in, void* out) {
    size_t bytes = 0;
    const pc_status sized = pc_depthwise_workspace_size(&changed, packed.data(), packed.bytes(), 1, &bytes);
    if (sized != PC_OK) return sized;
    Aligned workspace(bytes);
    return pc_depthwise_run(&changed, packed.data(), packed.bytes(), in, out, workspace.data(), bytes, 0, 1);
  };
  CHECK_STATUS(PC_OK, status(d, x.data(), y.data()));
  CHECK_STATUS(PC_ERROR_NULL, status(d, nullptr, y.data()));
  CHECK_STATUS(PC_ERROR_OVERLAP, status(d, x.data(), x.data() + 3));
  const auto with = [&](auto change) {
    pc_conv_desc changed = d;
    change(changed);
    return status(changed, x.data(), y.data());
  };
  CHECK_STATUS(PC_ERROR_STRUCT, with([](pc_conv_desc& c) { c.size = 8; }));
  CHECK_STATUS(PC_ERROR_SHAPE, with([](pc_conv_desc& c) { c.height = 2; }));
  CHECK_STATUS(PC_ERROR_SHAPE, with([](pc_conv_desc& c) { c.channels = 3; }));
  CHECK_STATUS(PC_ERROR_SHAPE, with([](pc_conv_desc& c) { c.kernel_width = 5; }));
  CHECK_STATUS(PC_ERROR_VALUE, with([](pc_conv_desc& c) { c.stride_height = -1; }));
  CHECK_STATUS(PC_ERROR_VALUE, with([](pc_conv_desc& c) { c.pad_left = -1; }));
  CHECK_STATUS(PC_ERROR_VALUE, with([](pc_conv_desc& c) { c.x_scale = 0; }));
  CHECK_STATUS(PC_ERROR_VALUE, with([](pc_conv_desc& c) { c.x_zero_point = 256; }));
  CHECK_STATUS(PC_ERROR_VALUE, with([](pc_conv_desc& c) { c.activation = 9; }));
  CHECK_STATUS(PC_ERROR_TYPE, with([](pc_conv_desc& c) { c.y_type = 7; }));
  CHECK_STATUS(PC_ERROR_OVERFLOW, with([](pc_conv_desc& c) { c.batch = int64_t{1} << 40; }));
  CHECK_STATUS(PC_ERROR_OVERFLOW, with([](pc_conv_desc& c) {
                 c.batch = 0;  // of images too large for a workspace of their rows
                 c.height = c.width = int64_t{1} << 31;
               }));
  size_t bytes = 0;
  CHECK_STATUS(PC_ERROR_OVERFLOW, pc_depthwise_pack_size(PC_S8, 4, 300, 300, &bytes));
  CHECK_STATUS(PC_ERROR_TYPE, pc_depthwise_pack_size(PC_S32, 4, 3, 3, &bytes));
  // Damaged bytes are seen, or read as another weight of the same size.
  for (size_t i = 0; i < 64; ++i) {
    packed.data()[i] = static_cast<char>(packed.data()[i] ^ 0x55);
    (void)status(d, x.data(), y.data());
    packed.data()[i] = static_cast<char>(packed.data()[i] ^ 0x55);
  }
  CHECK_STATUS(PC_OK, status(d, x.data(), y.data()));
}

}  // namespace
