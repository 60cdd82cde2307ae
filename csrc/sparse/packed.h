// The packed form of a sparse weight: a header; of int8 float scale[np] and int32 sum[np], np being n rounded up to 16; the table of groups; their
// values, dwords [steps][16]; their positions, uint8 [steps][16 or 4][1, of columns 4]. Every section begins at a multiple of 64 bytes.
//
// k is cut into blocks, n into chunks of 256 outputs. Within a block of k the outputs of a chunk are sorted by their number of steps and taken 16 at
// a time: so the groups of 16 are all but equal within, and few steps are filled up. The table has all groups of a block of a chunk, then
// those of its next block, then the next chunk.
#pragma once

#include "core/dispatch.h"
#include "core/memory.h"
#include "sparse/sparse.h"

namespace pc {

struct SparseHeader {
  char magic[8];
  uint32_t version;
  uint16_t type;            // PC_F32 or PC_S8
  uint8_t shared, columns;  // 4 outputs share their positions; positions are columns
  int64_t n, k;
  uint64_t bytes;
  uint64_t steps;  // of all groups
  uint32_t block;  // positions in a block of k
  uint32_t split;  // neighbours stay within int16 together
  uint32_t reserved[2];
};
static_assert(sizeof(SparseHeader) == kAlignment, "the sections after the header are aligned");

// Sizes that follow from the header.
struct SparseLayout {
  size_t scale, sum, table, value, position, bytes;  // offsets, and the whole
  int64_t np, chunks, groups;                        // padded outputs; chunks of them; entries of the table
  int64_t positions, blocks;                         // of all of k; blocks of k
  int units;                                         // positions of a step: 16 or 4, of columns times 4
};
// False when the sizes leave memory or contradict each other.
bool sparse_layout(const SparseHeader& header, SparseLayout* layout);

struct SparsePacked {
  const SparseHeader* header;
  SparseLayout layout;
  const float* scale;
  const int32_t* sum;
  const SparseEntry* table;
  const uint32_t* value;
  const uint8_t* position;
  const Kernels* kernels;  // that read this form
  const char* kernel;
};
pc_status sparse_open(const void* packed, size_t bytes, SparsePacked* opened);

}  // namespace pc
