// The packed form of an int4 weight: a header, then the panels of nr outputs. A panel is, for each group of k, float scale[nr], the sums of
// its values as int16 or int32 sum[nr], and its chunks of 32 k, [4][nr][4] bytes each; s4.h has the order within. Bytes beyond n and k stand for
// zeros, with scale 0 beyond n.
#pragma once

#include "core/dispatch.h"
#include "core/memory.h"
#include "gemm/gemm.h"

namespace pc {

struct S4Header {
  char magic[8];
  uint32_t version;
  uint32_t nr;
  int64_t n, k;
  int64_t group_chunks;  // at least 1, and at most those of k
  uint64_t bytes;
  uint32_t reserved[4];
};
static_assert(sizeof(S4Header) == kAlignment, "the panels after the header are aligned");

struct S4Packed {
  const S4Header* header;
  const char* panels;
  int64_t chunks, groups;  // of k
  int64_t panel_bytes;
  const Kernels* kernels;      // those that read this form,
  const GemmS4Kernel* kernel;  // and which of them
};

// k * 255 * 15, the largest sum on the way, stays in int32.
constexpr int64_t kS4LongestK = int64_t{1} << 19;

// One panel as GemmS4Kernel::expand writes it: for each group scale and sums, and a byte for each value.
inline size_t expanded_bytes(const S4Packed& w, int nr) { return static_cast<size_t>(nr * (w.groups * 8 + w.chunks * kS4Chunk)); }

pc_status s4_open(const void* packed, size_t bytes, S4Packed* opened);

}  // namespace pc
