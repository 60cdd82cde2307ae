// What happens to whole images before a convolution: quantization by one scale, and NCHW to NHWC.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/dispatch.h"
#include "core/memory.h"
#include "core/partition.h"
#include "quant/quant.h"

namespace pc {
namespace {

// Blocks of a cache line each way: both sides are read and written in whole lines.
template <class T> void transpose(const T* x, int64_t rows, int64_t columns, const Range& range, T* y) {
  constexpr int64_t kBlock = 64 / sizeof(T) < 32 ? 32 : 64 / sizeof(T);
  for (int64_t r0 = range.begin; r0 < range.end; r0 += kBlock)
    for (int64_t c0 = 0; c0 < columns; c0 += kBlock) {
      const int64_t r1 = std::min(r0 + kBlock, range.end), c1 = std::min(c0 + kBlock, columns);
      T tile[kBlock][kBlock];
      for (int64_t r = r0; r < r1; ++r)
        for (int64_t c = c0; c < c1; ++c) tile[c - c0][r - r0] = x[r * columns + c];
      for (int64_t c = c0; c < c1; ++c) std::memcpy(y + c * rows + r0, tile[c - c0], static_cast<size_t>(r1 - r0) * sizeof(T));
    }
}

}  // namespace
}  // namespace pc

extern "C" {

pc_status pc_quantize_by_run(const float* x, int64_t count, float scale, int32_t zero_point, uint8_t* y, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  PC_CHECK(count >= 0, PC_ERROR_SHAPE, "count is %lld, wanted >= 0", ll(count));
  PC_CHECK(count <= PTRDIFF_MAX / 4, PC_ERROR_OVERFLOW, "count is %lld: x is larger than memory", ll(count));
  PC_CHECK((x && y) || count == 0, PC_ERROR_NULL, "x or y is NULL");
  PC_CHECK(is_aligned(x, alignof(float)), PC_ERROR_ALIGNMENT, "x is not aligned to float");
  PC_CHECK(scale > 0 && std::isfinite(scale) && std::isfinite(1.0f / scale), PC_ERROR_VALUE, "scale is %g, wanted positive, with a finite inverse",
           static_cast<double>(scale));
  PC_CHECK(zero_point >= 0 && zero_point <= 255, PC_ERROR_VALUE, "zero_point is %d, wanted 0 to 255", zero_point);
  PC_CHECK(!overlap(x, static_cast<size_t>(count) * 4, y, static_cast<size_t>(count)), PC_ERROR_OVERLAP, "y overlaps x");
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  set_last_kernel(kernels->quant->name);
  const Range part = part_of(count, 64, ith, nth);
  PC_CHECK(kernels->quant->quantize_row(x + part.begin, part.end - part.begin, 1.0f / scale, zero_point, false, y + part.begin), PC_ERROR_NONFINITE,
           "x holds NaN, which can't be quantized");
  return PC_OK;
}

pc_status pc_transpose_run(const void* x, int64_t batch, int64_t rows, int64_t columns, int32_t element, void* y, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  PC_CHECK(batch >= 0 && rows >= 0 && columns >= 0, PC_ERROR_SHAPE, "x is [%lld, %lld, %lld], wanted sizes >= 0", ll(batch), ll(rows), ll(columns));
  PC_CHECK(element == 1 || element == 4, PC_ERROR_TYPE, "elements have %d bytes, wanted 1 or 4", element);
  size_t bytes;
  PC_CHECK(multiply(static_cast<size_t>(batch), static_cast<size_t>(rows), &bytes) && multiply(bytes, static_cast<size_t>(columns), &bytes) &&
               multiply(bytes, static_cast<size_t>(element), &bytes) && bytes <= PTRDIFF_MAX,
           PC_ERROR_OVERFLOW, "x [%lld, %lld, %lld] is larger than memory", ll(batch), ll(rows), ll(columns));
  if (bytes == 0) return PC_OK;
  PC_CHECK(x && y, PC_ERROR_NULL, "x or y is NULL");
  PC_CHECK(is_aligned(x, static_cast<size_t>(element)) && is_aligned(y, static_cast<size_t>(element)), PC_ERROR_ALIGNMENT,
           "x or y is not aligned to its elements");
  PC_CHECK(!overlap(x, bytes, y, bytes), PC_ERROR_OVERLAP, "y overlaps x");
  const int64_t bands = divide_up(rows, int64_t{64}), size = rows * columns;
  const Range part = part_of(batch * bands, 1, ith, nth);
  for (int64_t i = part.begin; i < part.end; ++i) {
    const int64_t at = i / bands * size;
    const Range range{i % bands * 64, std::min(rows, (i % bands + 1) * 64)};
    if (element == 1)
      transpose(static_cast<const uint8_t*>(x) + at, rows, columns, range, static_cast<uint8_t*>(y) + at);
    else
      transpose(static_cast<const uint32_t*>(x) + at, rows, columns, range, static_cast<uint32_t*>(y) + at);
  }
  return PC_OK;
}
}
