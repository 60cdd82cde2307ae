// The driver of pooling and addition: checks arguments, clips windows to the image, hands them to the kernel.
#include "pool/pool.h"

#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "core/partition.h"

namespace pc {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;  // of a side, a kernel, a stride: products of two stay within int64

bool is_8(pc_type type) { return type == PC_U8 || type == PC_S8; }
size_t size_of(pc_type type) { return is_8(type) ? 1 : 4; }
int32_t lowest(pc_type type) { return type == PC_S8 ? -128 : 0; }
int32_t highest(pc_type type) { return type == PC_S8 ? 127 : 255; }
bool positive(float x) { return x > 0 && std::isfinite(x); }

pc_status check_qparams(const char* name, pc_type type, float scale, int32_t zero_point) {
  PC_CHECK(positive(scale), PC_ERROR_VALUE, "%s_scale is %g, wanted positive and finite", name, static_cast<double>(scale));
  PC_CHECK(zero_point >= lowest(type) && zero_point <= highest(type), PC_ERROR_VALUE, "%s_zero_point is %d, wanted %d to %d", name, zero_point,
           lowest(type), highest(type));
  return PC_OK;
}

pc_status image_bytes(const char* name, int64_t batch, int64_t height, int64_t width, int64_t channels, size_t element, size_t* bytes) {
  size_t n = element;
  for (const int64_t size : {batch, height, width, channels})
    PC_CHECK(multiply(n, static_cast<size_t>(size), &n) && n <= PTRDIFF_MAX, PC_ERROR_OVERFLOW, "%s is larger than memory", name);
  *bytes = n;
  return PC_OK;
}

struct Pool {
  pc_pool_desc d;
  float scale;  // of averages of 8 bits: x_scale / y_scale
  int32_t x_zero_point, y_zero_point;
};

pc_status check_pool(const pc_pool_desc* desc, const void* x, const void* y, Pool* p) {
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(desc->size == sizeof *desc, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", desc->size, sizeof *desc);
  const pc_pool_desc& d = p->d = *desc;
  for (const int64_t size : {d.batch, d.height, d.width, d.channels, d.out_height, d.out_width})
    PC_CHECK(size >= 0 && size < kMaxSize, PC_ERROR_SHAPE, "x is [%lld, %lld, %lld, %lld] and y's height and width are %lld and %lld, wanted >= 0",
             ll(d.batch), ll(d.height), ll(d.width), ll(d.channels), ll(d.out_height), ll(d.out_width));
  for (const int64_t size : {d.kernel_height, d.kernel_width, d.stride_height, d.stride_width, d.dilation_height, d.dilation_width})
    PC_CHECK(size >= 1 && size < kMaxSize, PC_ERROR_SHAPE, "a size of the kernel, a stride or a dilation is %lld, wanted >= 1", ll(size));
  const int64_t reach_h = (d.kernel_height - 1) * d.dilation_height, reach_w = (d.kernel_width - 1) * d.dilation_width;
  PC_CHECK(reach_h < kMaxSize && reach_w < kMaxSize, PC_ERROR_OVERFLOW, "the kernel reaches over %lld x %lld pixels", ll(reach_h), ll(reach_w));
  PC_CHECK(d.top >= 0 && d.left >= 0 && d.top <= reach_h && d.left <= reach_w, PC_ERROR_SHAPE,
           "padding is %lld above and %lld to the left, wanted 0 to less than the kernel", ll(d.top), ll(d.left));
  // The last window has to touch the image, or lie in padding after it that is less than the kernel.
  PC_CHECK(d.out_height == 0 || (d.out_height - 1) * d.stride_height - d.top < d.height, PC_ERROR_SHAPE, "out_height is %lld, too many for the image",
           ll(d.out_height));
  PC_CHECK(d.out_width == 0 || (d.out_width - 1) * d.stride_width - d.left < d.width, PC_ERROR_SHAPE, "out_width is %lld, too many for the image",
           ll(d.out_width));
  PC_CHECK(d.mode >= PC_POOL_MAX && d.mode <= PC_POOL_AVERAGE_PADDED, PC_ERROR_VALUE, "mode is %d, wanted PC_POOL_MAX to PC_POOL_AVERAGE_PADDED",
           d.mode);
  PC_CHECK(d.x_type == PC_F32 || is_8(d.x_type), PC_ERROR_TYPE, "x_type is %d, wanted PC_F32, PC_U8 or PC_S8", d.x_type);
  const bool to_float = is_8(d.x_type) && d.y_type == PC_F32;
  PC_CHECK(d.y_type == d.x_type || (to_float && d.mode != PC_POOL_MAX), PC_ERROR_TYPE, "y_type is %d, wanted x_type, or PC_F32 for an average",
           d.y_type);
  PC_CHECK(d.mode == PC_POOL_MAX || (d.dilation_height == 1 && d.dilation_width == 1), PC_ERROR_VALUE, "dilation goes with PC_POOL_MAX only");
  if (is_8(d.x_type) && d.mode != PC_POOL_MAX) {
    PC_CHECK(d.kernel_height * d.kernel_width < (int64_t{1} << 23), PC_ERROR_OVERFLOW, "a window of %lld x %lld could overflow int32",
             ll(d.kernel_height), ll(d.kernel_width));
    if (d.x_scale == 0.0f) {
      PC_CHECK(!to_float && d.y_scale == 0.0f, PC_ERROR_VALUE, "x_scale is 0, wanted positive: y has another scale");
      p->scale = 1.0f;
      p->x_zero_point = p->y_zero_point = d.x_zero_point;
      PC_TRY(check_qparams("x", d.x_type, 1.0f, d.x_zero_point));
    } else {
      PC_TRY(check_qparams("x", d.x_type, d.x_scale, d.x_zero_point));
      if (!to_float) PC_TRY(check_qparams("y", d.y_type, d.y_scale, d.y_zero_point));
      p->scale = to_float ? d.x_scale : d.x_scale / d.y_scale;
      p->x_zero_point = d.x_zero_point;
      p->y_zero_point = to_float ? 0 : d.y_zero_point;
      PC_CHECK(positive(p->scale), PC_ERROR_VALUE, "x_scale / y_scale is %g, wanted positive and finite", static_cast<double>(p->scale));
    }
  }
  size_t x_bytes = 0, y_bytes = 0;
  PC_TRY(image_bytes("x", d.batch, d.height, d.width, d.channels, size_of(d.x_type), &x_bytes));
  PC_TRY(image_bytes("y", d.batch, d.out_height, d.out_width, d.channels, size_of(d.y_type), &y_bytes));
  PC_CHECK((x || !x_bytes) && (y || !y_bytes), PC_ERROR_NULL, "x or y is NULL");
  PC_CHECK(is_aligned(x, size_of(d.x_type)) && is_aligned(y, size_of(d.y_type)), PC_ERROR_ALIGNMENT, "x or y is not aligned to its element type");
  PC_CHECK(!overlap(x, x_bytes, y, y_bytes), PC_ERROR_OVERLAP, "y overlaps x");
  return PC_OK;
}

// The taps of a kernel whose first lies at `start` that are inside [0, size): from `begin`, `count` of them.
struct Inside {
  int64_t begin, count;
};

Inside inside(int64_t start, int64_t taps, int64_t dilation, int64_t size) {
  const int64_t first = start < 0 ? divide_up(-start, dilation) : 0;
  const int64_t end = start < size ? std::min(taps, divide_up(size - start, dilation)) : 0;
  return {first, std::max<int64_t>(end - first, 0)};
}

void pool_pixel(const Pool& p, const PoolKernel& kernel, const Window& w, char* y) {
  const pc_pool_desc& d = p.d;
  if (d.mode == PC_POOL_MAX) {
    if (d.x_type == PC_U8)
      kernel.max_u8(w, reinterpret_cast<uint8_t*>(y));
    else if (d.x_type == PC_S8)
      kernel.max_s8(w, reinterpret_cast<int8_t*>(y));
    else
      kernel.max_f32(w, reinterpret_cast<float*>(y));
    return;
  }
  const int64_t count = d.mode == PC_POOL_AVERAGE ? w.rows * w.columns : d.kernel_height * d.kernel_width;
  if (d.x_type == PC_F32) return kernel.average_f32(w, static_cast<float>(count), reinterpret_cast<float*>(y));
  const Average a{static_cast<int32_t>(-w.rows * w.columns) * p.x_zero_point, p.scale / static_cast<float>(count),
                  static_cast<float>(lowest(d.y_type) - p.y_zero_point), static_cast<float>(highest(d.y_type) - p.y_zero_point), p.y_zero_point};
  if (d.x_type == PC_U8 && d.y_type == PC_U8)
    kernel.average_u8(w, a, reinterpret_cast<uint8_t*>(y));
  else if (d.x_type == PC_S8 && d.y_type == PC_S8)
    kernel.average_s8(w, a, reinterpret_cast<int8_t*>(y));
  else if (d.x_type == PC_U8)
    kernel.average_u8_f32(w, a, reinterpret_cast<float*>(y));
  else
    kernel.average_s8_f32(w, a, reinterpret_cast<float*>(y));
}

}  // namespace
}  // namespace pc

extern "C" {

pc_status pc_pool_run(const pc_pool_desc* desc, const void* x, void* y, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  Pool p{};
  PC_TRY(check_pool(desc, x, y, &p));
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  const PoolKernel& kernel = *kernels->pool;
  set_last_kernel(kernel.name);
  const pc_pool_desc& d = p.d;
  if (d.out_height == 0 || d.out_width == 0 || d.channels == 0) return PC_OK;
  // Rows of y are shared out; of an image that becomes a pixel, channels.
  const int64_t rows = d.batch * d.out_height;
  const bool by_row = rows * d.out_width >= nth;
  const Range pixels = by_row ? part_of(rows * d.out_width, 1, ith, nth) : Range{0, rows * d.out_width};
  const Range channels = by_row ? Range{0, d.channels} : part_of(d.channels, 64, ith, nth);
  if (channels.begin == channels.end) return PC_OK;
  const auto x_pixel = static_cast<int64_t>(size_of(d.x_type)) * d.channels, y_pixel = static_cast<int64_t>(size_of(d.y_type)) * d.channels;
  for (int64_t pixel = pixels.begin; pixel < pixels.end; ++pixel) {
    const int64_t row = pixel / d.out_width, i = row % d.out_height, j = pixel % d.out_width;
    const int64_t start_h = i * d.stride_height - d.top, start_w = j * d.stride_width - d.left;
    const Inside h = inside(start_h, d.kernel_height, d.dilation_height, d.height), v = inside(start_w, d.kernel_width, d.dilation_width, d.width);
    const int64_t first = (row / d.out_height * d.height + start_h + h.begin * d.dilation_height) * d.width + start_w + v.begin * d.dilation_width;
    const bool any = h.count > 0 && v.count > 0;
    const Window w{any ? static_cast<const char*>(x) + first * x_pixel + channels.begin * static_cast<int64_t>(size_of(d.x_type)) : nullptr,
                   d.dilation_height * d.width * x_pixel,
                   d.dilation_width * x_pixel,
                   any ? h.count : 0,
                   any ? v.count : 0,
                   channels.end - channels.begin};
    pool_pixel(p, kernel, w, static_cast<char*>(y) + pixel * y_pixel + channels.begin * static_cast<int64_t>(size_of(d.y_type)));
  }
  return PC_OK;
}

pc_status pc_add_run(const pc_add_desc* desc, const void* a, const void* b, void* y, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(desc->size == sizeof *desc, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", desc->size, sizeof *desc);
  const pc_add_desc& d = *desc;
  PC_CHECK(d.count >= 0 && d.count <= PTRDIFF_MAX / 4, PC_ERROR_SHAPE, "count is %lld, wanted >= 0", ll(d.count));
  PC_CHECK(d.type == PC_F32 || is_8(d.type), PC_ERROR_TYPE, "type is %d, wanted PC_F32, PC_U8 or PC_S8", d.type);
  PC_CHECK(d.y_type == d.type || d.y_type == PC_F32, PC_ERROR_TYPE, "y_type is %d, wanted type or PC_F32", d.y_type);
  PC_CHECK(d.activation == PC_ACTIVATION_NONE || d.activation == PC_ACTIVATION_CLAMP, PC_ERROR_VALUE,
           "activation is %d, wanted PC_ACTIVATION_NONE or PC_ACTIVATION_CLAMP", d.activation);
  const bool clamp = d.activation == PC_ACTIVATION_CLAMP;
  PC_CHECK(!clamp || d.low <= d.high, PC_ERROR_VALUE, "low and high are %g and %g, wanted low <= high", static_cast<double>(d.low),
           static_cast<double>(d.high));
  const auto count = static_cast<size_t>(d.count);
  PC_CHECK((a && b && y) || count == 0, PC_ERROR_NULL, "a, b or y is NULL");
  PC_CHECK(is_aligned(a, size_of(d.type)) && is_aligned(b, size_of(d.type)) && is_aligned(y, size_of(d.y_type)), PC_ERROR_ALIGNMENT,
           "a, b or y is not aligned to its element type");
  for (const void* operand : {a, b})
    PC_CHECK(!overlap(operand, count * size_of(d.type), y, count * size_of(d.y_type)), PC_ERROR_OVERLAP, "y overlaps a or b");
  Sum s{};
  const float low = clamp ? d.low : -INFINITY, high = clamp ? d.high : INFINITY;
  if (d.type != PC_F32) {
    PC_TRY(check_qparams("a", d.type, d.a_scale, d.a_zero_point));
    PC_TRY(check_qparams("b", d.type, d.b_scale, d.b_zero_point));
    if (d.y_type != PC_F32) PC_TRY(check_qparams("y", d.y_type, d.y_scale, d.y_zero_point));
    PC_CHECK(d.y_type != PC_F32 || !clamp, PC_ERROR_VALUE, "an activation goes with a result of the operands' type only");
    const float y_scale = d.y_type == PC_F32 ? 1.0f : d.y_scale;
    s = {d.a_zero_point, d.b_zero_point, d.a_scale / y_scale, d.b_scale / y_scale, 0, 0, d.y_type == PC_F32 ? 0 : d.y_zero_point};
    PC_CHECK(std::isfinite(s.a_ratio * 512) && std::isfinite(s.b_ratio * 512), PC_ERROR_VALUE, "a_scale or b_scale / y_scale is not finite");
    // A clamp acts on the quantized bounds.
    const auto bound = [&](float value) {
      const float q = std::clamp(value / y_scale, -1024.0f, 1024.0f);
      return std::clamp(static_cast<float>(std::lrintf(q)), static_cast<float>(lowest(d.y_type) - s.zero_point),
                        static_cast<float>(highest(d.y_type) - s.zero_point));
    };
    s.low = bound(low);
    s.high = bound(high);
  }
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  const PoolKernel& kernel = *kernels->pool;
  set_last_kernel(kernel.name);
  const Range part = part_of(d.count, 64, ith, nth);
  const int64_t n = part.end - part.begin;
  const auto of = [&](const void* p) { return static_cast<const char*>(p) + part.begin * static_cast<int64_t>(size_of(d.type)); };
  char* out = static_cast<char*>(y) + part.begin * static_cast<int64_t>(size_of(d.y_type));
  if (d.type == PC_F32) {
    kernel.add_f32(reinterpret_cast<const float*>(of(a)), reinterpret_cast<const float*>(of(b)), n, low, high, reinterpret_cast<float*>(out));
  } else if (d.type == PC_U8) {
    const auto *ua = reinterpret_cast<const uint8_t*>(of(a)), *ub = reinterpret_cast<const uint8_t*>(of(b));
    if (d.y_type == PC_F32)
      kernel.add_u8_f32(ua, ub, n, s, reinterpret_cast<float*>(out));
    else
      kernel.add_u8(ua, ub, n, s, reinterpret_cast<uint8_t*>(out));
  } else {
    const auto *sa = reinterpret_cast<const int8_t*>(of(a)), *sb = reinterpret_cast<const int8_t*>(of(b));
    if (d.y_type == PC_F32)
      kernel.add_s8_f32(sa, sb, n, s, reinterpret_cast<float*>(out));
    else
      kernel.add_s8(sa, sb, n, s, reinterpret_cast<int8_t*>(out));
  }
  return PC_OK;
}
}
