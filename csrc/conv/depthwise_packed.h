// The packed form of a depthwise weight: a header, then for int8 float scale[outputs] and int32 sum[outputs], and the blocks of channels, each as its
// kernel wants it. Every section begins at a multiple of 64 bytes. The last block holds what is left over.
#pragma once

#include "conv/depthwise.h"
#include "core/dispatch.h"
#include "core/memory.h"

namespace pc {

struct DepthwiseHeader {
  char magic[8];
  uint32_t version;
  int32_t type;  // PC_S8 or PC_F32
  uint16_t block, group;
  uint32_t reserved0;
  int64_t outputs, kh, kw;
  uint64_t bytes;
  uint32_t reserved[2];
};
static_assert(sizeof(DepthwiseHeader) == kAlignment, "the sections after the header are aligned");

struct DepthwisePacked {
  const DepthwiseHeader* header;
  const float* scale;  // of int8
  const int32_t* sum;
  const char* blocks;
  size_t block_bytes;
  const Kernels* kernels;  // those that read this form
};

// Channels cut into blocks.
struct Blocks {
  int block;
  int64_t full, count;  // whole ones, and all
  int rest;             // channels of the last, or 0
  bool dual;            // the last holds its channels twice

  int channels(int64_t i) const { return i < full ? block : rest; }
};
inline Blocks blocks_of(int64_t channels, int block, bool can_be_dual) {
  const int rest = static_cast<int>(channels % block);
  return {block, channels / block, channels / block + (rest > 0), rest, can_be_dual && rest > 0 && rest <= block / 2};
}

pc_status depthwise_open(const void* packed, size_t bytes, DepthwisePacked* opened);

}  // namespace pc
