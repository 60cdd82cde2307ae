// The drivers of quantization: check arguments, cut the tensor into runs that share a scale, hand them to the kernel.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/dispatch.h"
#include "core/partition.h"
#include "quant/quant.h"

namespace pc {
namespace {

struct Limits {
  int32_t low, high;
};

Limits limits_of(pc_type type) {
  if (type == PC_U8) return {0, 255};
  if (type == PC_S8) return {-128, 127};
  return {INT32_MIN, INT32_MAX};
}

size_t size_of(pc_type type) { return type == PC_S32 ? 4 : 1; }

pc_status check_quant(const pc_quant_desc* d, bool s32, const void* x, size_t x_size, const void* y, size_t y_size, int64_t* count) {
  PC_CHECK(d, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(d->size == sizeof *d, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", d->size, sizeof *d);
  PC_CHECK(d->outer >= 0 && d->channels >= 0 && d->inner >= 0, PC_ERROR_SHAPE, "outer, channels, inner are %lld, %lld, %lld, wanted >= 0",
           ll(d->outer), ll(d->channels), ll(d->inner));
  PC_CHECK(d->q_type == PC_U8 || d->q_type == PC_S8 || (s32 && d->q_type == PC_S32), PC_ERROR_TYPE, "q_type is %d, wanted PC_U8 or PC_S8%s",
           d->q_type, s32 ? " or PC_S32" : "");
  size_t values, bytes;
  PC_CHECK(multiply(static_cast<size_t>(d->outer), static_cast<size_t>(d->channels), &values) &&
               multiply(values, static_cast<size_t>(d->inner), &values) && multiply(values, 4, &bytes) && bytes <= PTRDIFF_MAX,
           PC_ERROR_OVERFLOW, "[%lld, %lld, %lld] is larger than memory", ll(d->outer), ll(d->channels), ll(d->inner));
  *count = static_cast<int64_t>(values);
  if (values == 0) return PC_OK;
  PC_CHECK(x && y && d->scale, PC_ERROR_NULL, "x, y or scale is NULL");
  PC_CHECK(is_aligned(x, x_size) && is_aligned(y, y_size), PC_ERROR_ALIGNMENT, "x or y is not aligned to its element type");
  PC_CHECK(is_aligned(d->scale, 4) && is_aligned(d->zero_point, 4), PC_ERROR_ALIGNMENT, "scale or zero_point is not aligned to its element type");
  const Limits limits = limits_of(d->q_type);
  for (int64_t c = 0; c < d->channels; ++c) {
    PC_CHECK(d->scale[c] > 0 && std::isfinite(d->scale[c]), PC_ERROR_VALUE, "scale[%lld] is %g, wanted positive and finite", ll(c),
             static_cast<double>(d->scale[c]));
    const int32_t z = d->zero_point ? d->zero_point[c] : 0;
    PC_CHECK(z >= limits.low && z <= limits.high, PC_ERROR_VALUE, "zero_point[%lld] is %d, wanted %d to %d", ll(c), z, limits.low, limits.high);
  }
  for (const Span& in : {Span{x, values * x_size}, optional_span(d->scale, d->channels), optional_span(d->zero_point, d->channels)})
    PC_CHECK(!overlap(in.begin, in.bytes, y, values * y_size), PC_ERROR_OVERLAP, "y overlaps x, scale or zero_point");
  return PC_OK;
}

// Calls run(begin, count, channel) for the runs with one channel in part ith of the values.
template <class Run> pc_status for_runs(const pc_quant_desc& d, int64_t count, int32_t ith, int32_t nth, Run run) {
  constexpr int64_t cache_line = 64;  // so that two parts never write to the same one
  const Range part = part_of(count, cache_line, ith, nth);
  for (int64_t begin = part.begin; begin < part.end;) {
    const int64_t index = d.channels == 1 ? 0 : begin / d.inner;
    const int64_t end = d.channels == 1 ? part.end : std::min(part.end, (index + 1) * d.inner);
    PC_TRY(run(begin, end - begin, index % d.channels));
    begin = end;
  }
  return PC_OK;
}

}  // namespace
}  // namespace pc

extern "C" {

pc_status pc_quantize_linear_run(const pc_quant_desc* desc, const float* x, void* y, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  int64_t count;
  PC_TRY(check_quant(desc, false, x, 4, y, 1, &count));
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  const QuantKernel& kernel = *kernels->quant;
  set_last_kernel(kernel.name);
  const Limits limits = limits_of(desc->q_type);
  return for_runs(*desc, count, ith, nth, [&](int64_t begin, int64_t n, int64_t c) {
    PC_CHECK(kernel.quantize(x + begin, n, desc->scale[c], desc->zero_point ? desc->zero_point[c] : 0, limits.low, limits.high,
                             static_cast<char*>(y) + begin),
             PC_ERROR_NONFINITE, "x holds NaN, which can't be quantized");
    return static_cast<pc_status>(PC_OK);
  });
}

pc_status pc_dequantize_linear_run(const pc_quant_desc* desc, const void* x, float* y, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  int64_t count;
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_TRY(check_quant(desc, true, x, size_of(desc->q_type), y, 4, &count));
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  const QuantKernel& kernel = *kernels->quant;
  set_last_kernel(kernel.name);
  return for_runs(*desc, count, ith, nth, [&](int64_t begin, int64_t n, int64_t c) {
    const float scale = desc->scale[c];
    const int32_t z = desc->zero_point ? desc->zero_point[c] : 0;
    if (desc->q_type == PC_U8)
      kernel.dequantize_u8(static_cast<const uint8_t*>(x) + begin, n, scale, z, y + begin);
    else if (desc->q_type == PC_S8)
      kernel.dequantize_s8(static_cast<const int8_t*>(x) + begin, n, scale, z, y + begin);
    else
      kernel.dequantize_s32(static_cast<const int32_t*>(x) + begin, n, scale, z, y + begin);
    return static_cast<pc_status>(PC_OK);
  });
}

pc_status pc_range_run(const float* x, int64_t count, float* range, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  PC_CHECK(count >= 0, PC_ERROR_SHAPE, "count is %lld, wanted >= 0", ll(count));
  PC_CHECK(range && (x || count == 0), PC_ERROR_NULL, "x or range is NULL");
  PC_CHECK(count <= PTRDIFF_MAX / 4, PC_ERROR_OVERFLOW, "count is %lld: x is larger than memory", ll(count));
  PC_CHECK(is_aligned(x, 4) && is_aligned(range, 4), PC_ERROR_ALIGNMENT, "x or range is not aligned to float");
  PC_CHECK(!overlap(x, static_cast<size_t>(count) * 4, range, static_cast<size_t>(nth) * 8), PC_ERROR_OVERLAP, "range overlaps x");
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  set_last_kernel(kernels->quant->name);
  const Range part = part_of(count, 64, ith, nth);
  PC_CHECK(kernels->quant->range(x + part.begin, part.end - part.begin, &range[2 * ith], &range[2 * ith + 1]), PC_ERROR_NONFINITE,
           "x holds NaN or infinity and can't be quantized");
  return PC_OK;
}

pc_status pc_dynamic_qparams(const float* range, int32_t nth, float* scale, int32_t* zero_point) {
  using namespace pc;
  PC_CHECK(range && scale && zero_point, PC_ERROR_NULL, "range, scale or zero_point is NULL");
  PC_CHECK(is_aligned(range, 4) && is_aligned(scale, 4) && is_aligned(zero_point, 4), PC_ERROR_ALIGNMENT,
           "range, scale or zero_point is not aligned to its element type");
  PC_CHECK(nth >= 1, PC_ERROR_VALUE, "nth is %d, wanted >= 1", nth);
  float low = 0, high = 0;
  for (int32_t i = 0; i < nth; ++i) {
    PC_CHECK(std::isfinite(range[2 * i]) && std::isfinite(range[2 * i + 1]), PC_ERROR_NONFINITE, "range %d is not finite", i);
    low = std::min(low, range[2 * i]);
    high = std::max(high, range[2 * i + 1]);
  }
  const float width = high - low;
  PC_CHECK(std::isfinite(width), PC_ERROR_VALUE, "x goes from %g to %g: the width of that range is not finite", static_cast<double>(low),
           static_cast<double>(high));
  *scale = width / 255.0f;
  *zero_point = 0;
  if (*scale == 0)
    *scale = 1.0f / 255.0f;
  else
    *zero_point = static_cast<int32_t>(std::lrintf(std::clamp(0.0f - low / *scale, 0.0f, 255.0f)));
  return PC_OK;
}

pc_status pc_quantize_rows_run(const float* x, int64_t m, int64_t k, int64_t ldx, uint8_t* y, int64_t ldy, float* scale, int32_t* zero_point,
                               int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  PC_CHECK(m >= 0 && k >= 0, PC_ERROR_SHAPE, "m and k are %lld and %lld, wanted >= 0", ll(m), ll(k));
  if (ldx == 0) ldx = k;
  if (ldy == 0) ldy = k;
  PC_CHECK(ldx >= k && ldy >= k, PC_ERROR_SHAPE, "ldx and ldy are %lld and %lld, wanted at least k = %lld", ll(ldx), ll(ldy), ll(k));
  if (m == 0) return PC_OK;
  size_t x_bytes, y_bytes;
  PC_CHECK(span_bytes(m, k, ldx, 4, &x_bytes) && span_bytes(m, k, ldy, 1, &y_bytes), PC_ERROR_OVERFLOW, "x [%lld, %lld] is larger than memory", ll(m),
           ll(k));
  PC_CHECK(((x && y) || k == 0) && scale && zero_point, PC_ERROR_NULL, "x, y, scale or zero_point is NULL");
  PC_CHECK(is_aligned(x, 4) && is_aligned(scale, 4) && is_aligned(zero_point, 4), PC_ERROR_ALIGNMENT,
           "x, scale or zero_point is not aligned to its element type");
  const size_t row_bytes = static_cast<size_t>(m) * 4;  // of what goes with each row
  PC_CHECK(!overlap(x, x_bytes, y, y_bytes), PC_ERROR_OVERLAP, "y overlaps x");
  PC_CHECK(!overlap(scale, row_bytes, zero_point, row_bytes), PC_ERROR_OVERLAP, "scale overlaps zero_point");
  for (const void* out : std::initializer_list<const void*>{scale, zero_point})
    PC_CHECK(!overlap(out, row_bytes, x, x_bytes) && !overlap(out, row_bytes, y, y_bytes), PC_ERROR_OVERLAP, "scale or zero_point overlaps x or y");
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  const QuantKernel& kernel = *kernels->quant;
  set_last_kernel(kernel.name);
  const Range part = part_of(m, 1, ith, nth);
  for (int64_t r = part.begin; r < part.end; ++r) {
    float low, high, inverse;
    PC_CHECK(kernel.range(x + r * ldx, k, &low, &high), PC_ERROR_NONFINITE, "x holds NaN or infinity in row %lld and can't be quantized", ll(r));
    PC_CHECK(kernel.row_qparams(&low, &high, 1, &scale[r], &zero_point[r], &inverse), PC_ERROR_NONFINITE,
             "x goes from %g to %g in row %lld: the width of that range is not finite", static_cast<double>(low), static_cast<double>(high), ll(r));
    kernel.quantize_row(x + r * ldx, k, inverse, zero_point[r], true, y + r * ldy);
  }
  return PC_OK;
}
}
