// The packed form of a float32 or float16 weight: a header, then the panels of nr outputs, [k][nr] each, zeros beyond n.
#pragma once

#include "core/memory.h"
#include "gemm/gemm.h"

namespace pc {

struct F32Header {
  char magic[8];
  uint32_t version, nr;
  int64_t n, k;
  uint64_t bytes;
  uint32_t reserved[6];
};
static_assert(sizeof(F32Header) == kAlignment, "the panels after the header are aligned");

// Whether packed is a weight [n, k] that runs here, and the kernel that reads it.
pc_status f32_open(const void* packed, size_t bytes, int64_t n, int64_t k, const GemmF32Kernel** kernel);

}  // namespace pc
