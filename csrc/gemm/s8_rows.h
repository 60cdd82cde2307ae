// The int8 GEMM over rows that are made while they are packed, for the convolution: x is never in memory as a matrix.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/memory.h"

namespace pc {

struct S8Rows {
  const void* context;
  // Rows [first, first + count) of k bytes, `stride` bytes apart. All of each stride may be written.
  void (*write)(const void* context, int64_t first, int64_t count, char* to, size_t stride);
  Span x, y;  // all that rows are made of, and the array that y is a part of: they may not overlap
};

// As pc_gemm_s8_workspace_size and pc_gemm_s8_run. x_type is PC_U8 or PC_S8, with one zero point; the rows are not looked at otherwise.
pc_status gemm_s8_rows_workspace_size(const pc_gemm_s8_desc& desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes);
pc_status gemm_s8_rows_run(const pc_gemm_s8_desc& desc, const void* packed, size_t bytes, const S8Rows& rows, void* y, void* workspace,
                           size_t workspace_bytes, int32_t ith, int32_t nth);

}  // namespace pc
