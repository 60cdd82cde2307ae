// The packed form of an int8 weight: a header, then float scale[np], int32 sum[np], and the panels [np / nr][kp / group][nr][group], where np and
// kp are n and k rounded up to nr and group. A split weight has its rest behind them: uint32 begin[np / nr + 1] and S8RestQuad quad[count]. Every
// section begins at a multiple of 64 bytes. Bytes beyond n and k are zero.
#pragma once

#include "core/dispatch.h"
#include "core/memory.h"
#include "gemm/gemm.h"

namespace pc {

struct S8Header {
  char magic[8];
  uint32_t version;
  uint16_t nr, group;
  int64_t n, k;
  uint64_t bytes;
  uint32_t w_unsigned;  // w was uint8 and is stored less 128
  uint32_t split;       // for a kernel of gemm_s8_split
  uint32_t rest_count;  // quads of the rest
  uint32_t reserved[3];
};
static_assert(sizeof(S8Header) == kAlignment, "the sections after the header are aligned");

struct S8Packed {
  const S8Header* header;
  const float* scale;
  const int32_t* sum;
  const int8_t* panels;
  int64_t steps;  // of `group` values of k
  int64_t panel_bytes;
  const uint32_t* rest_begin;  // of a split weight with a rest, else nullptr
  const S8RestQuad* rest;
  const Kernels* kernels;      // those that read this form,
  const GemmS8Kernel* kernel;  // and which of them
};

// Checks n and k, and gives the layout for one kernel.
struct S8Layout {
  size_t scale, sum, panels, rest_begin, rest, bytes;  // offsets, and the whole
  int64_t np, steps;
};
pc_status s8_layout(int64_t n, int64_t k, const GemmS8Kernel& kernel, uint32_t rest_count, S8Layout* layout);

pc_status s8_open(const void* packed, size_t bytes, S8Packed* opened);

// k * 255 * (128 or 255) must stay in int32.
pc_status s8_check_k(int64_t k, bool w_wide);

}  // namespace pc
