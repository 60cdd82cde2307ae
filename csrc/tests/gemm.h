// One call of a GEMM with the memory that it needs, for tests about its values.
#pragma once

#include <cmath>

#include "test.h"

namespace test {

inline size_t size_of(pc_type type) { return type == PC_F32 || type == PC_S32 ? 4 : 1; }

inline Aligned pack_s8(const void* w, pc_type type, int64_t n, int64_t k, int64_t ldn, int64_t ldk, const float* scale) {
  size_t bytes = 0;
  CHECK_OK(pc_gemm_s8_pack_size(n, k, &bytes));
  Aligned packed(bytes);
  CHECK_OK(pc_gemm_s8_pack(w, type, n, k, ldn, ldk, scale, packed.data(), bytes));
  return packed;
}

inline Aligned pack_f32(const float* w, int64_t n, int64_t k, int64_t ldn, int64_t ldk) {
  size_t bytes = 0;
  CHECK_OK(pc_gemm_f32_pack_size(n, k, &bytes));
  Aligned packed(bytes);
  CHECK_OK(pc_gemm_f32_pack(w, n, k, ldn, ldk, packed.data(), bytes));
  return packed;
}

inline Aligned pack_f16(const uint16_t* w, int64_t n, int64_t k, int64_t ldn, int64_t ldk) {
  size_t bytes = 0;
  CHECK_OK(pc_gemm_f16_pack_size(n, k, &bytes));
  Aligned packed(bytes);
  CHECK_OK(pc_gemm_f16_pack(w, n, k, ldn, ldk, packed.data(), bytes));
  return packed;
}

// All parts one after another, from the last to the first: the order must not matter.
inline pc_status run_s8(const pc_gemm_s8_desc& d, Aligned& packed, const void* x, void* y, int32_t nth = 1) {
  size_t bytes = 0;
  const pc_status status = pc_gemm_s8_workspace_size(&d, packed.data(), packed.bytes(), nth, &bytes);
  if (status != PC_OK) return status;
  Aligned workspace(bytes);
  for (int32_t ith = nth; ith-- > 0;) {
    const pc_status part = pc_gemm_s8_run(&d, packed.data(), packed.bytes(), x, y, workspace.data(), bytes, ith, nth);
    if (part != PC_OK) return part;
  }
  return PC_OK;
}

inline Aligned pack_s4(const uint8_t* w, int64_t n, int64_t k, int64_t group_size, const float* scale) {
  size_t bytes = 0;
  CHECK_OK(pc_gemm_s4_pack_size(n, k, group_size, &bytes));
  Aligned packed(bytes);
  CHECK_OK(pc_gemm_s4_pack(w, n, k, 0, group_size, scale, packed.data(), bytes));
  return packed;
}

inline pc_status run_s4(const pc_gemm_s4_desc& d, Aligned& packed, const void* x, void* y, int32_t nth = 1) {
  size_t bytes = 0;
  const pc_status status = pc_gemm_s4_workspace_size(&d, packed.data(), packed.bytes(), nth, &bytes);
  if (status != PC_OK) return status;
  Aligned workspace(bytes);
  for (int32_t ith = nth; ith-- > 0;) {
    const pc_status part = pc_gemm_s4_run(&d, packed.data(), packed.bytes(), x, y, workspace.data(), bytes, ith, nth);
    if (part != PC_OK) return part;
  }
  return PC_OK;
}

// packed == nullptr: w is plain.
inline pc_status run_f32(const pc_gemm_f32_desc& d, const float* w, Aligned* packed, const float* x, float* y, int32_t nth = 1) {
  size_t bytes = 0;
  const pc_status status = pc_gemm_f32_workspace_size(&d, nth, &bytes);
  if (status != PC_OK) return status;
  Aligned workspace(bytes);
  for (int32_t ith = nth; ith-- > 0;) {
    const pc_status part = pc_gemm_f32_run(&d, packed ? static_cast<const void*>(packed->data()) : w, packed ? packed->bytes() : 0, x, y,
                                           workspace.data(), bytes, ith, nth);
    if (part != PC_OK) return part;
  }
  return PC_OK;
}

}  // namespace test
