// What a sparse kernel of one ISA offers, and what it is handed.
//
// Up to 64 rows of x are a panel, transposed once: a position of it is one value of k (float32), or 4 neighbouring ones (int8), of all its rows, as
// one dword a row. A group is 16 outputs of the weight within a block of k. Each step of it names, for each output or for each 4 outputs that
// share their columns, a position and a dword of weights. Sums of a group go to the rows of `sum`, whose lanes are rows of x.
#pragma once

#include "gemm/gemm.h"

namespace pc {

constexpr int kSparseRows = 64;      // of a panel
constexpr int kSparseGroup = 16;     // outputs of a group
constexpr int kSparseChunk = 256;    // outputs, numbered by a byte, that are sorted together by their steps, and whose sums wait in near memory
constexpr int kSparseShared = 4;     // outputs that share columns, where the weight's blocks allow it
constexpr int kSparsePosition = 16;  // a block of k is a multiple of so many positions
// Positions of a block of k at the most: their numbers fit a byte, a panel of 64 rows of them stays in L1, and one row of them in 8 (columns: 4)
// registers of AVX-512.
constexpr int kSparseBlock = 128, kSparseBlockOfColumns = 256;
// Of quads and float32 with few steps, whose loops are short beside what begins and ends them: where no registers have to hold a block.
constexpr int kSparseLongBlock = 240;
constexpr int kSparseSums = 256 + 16;  // from row to row of the sums of few rows: an output of damaged bytes stays within

struct SparseEntry {  // of the table of groups
  uint32_t begin, steps;
  uint8_t output[kSparseGroup];  // within the chunk
};

struct SparseGroup {
  const void* x;            // [positions][vectors][VL] dwords, or of columns [positions][64] bytes
  int vectors;              // of rows
  const uint32_t* value;    // [steps][16]
  const uint8_t* position;  // [steps][16], [steps][4] of shared outputs; of columns [4] for each of these
  int64_t steps;
  const uint8_t* output;  // [16] rows of sum; of shared outputs 4 and 4 follow each other
  bool first;             // of the blocks of k: start from 0
  int32_t* sum;           // [outputs][64], float32 or int32
};

// A chunk of outputs by a few rows of x, each of which lies in memory as it is: [blocks] of [positions] dwords, or of columns [positions] bytes,
// which SparseFewKernel says. Up to 1 KiB behind a block may be read.
struct SparseFew {
  const char* x;
  ptrdiff_t block_bytes, row_bytes;  // from block to block, from row to row
  const SparseEntry* table;          // [blocks][groups]
  const uint32_t* value;             // of the whole weight, as in SparseGroup
  const uint8_t* position;
  int64_t blocks;
  int groups, rows;
  int32_t* sum;  // [rows][kSparseSums]; products are added to it
};

// The sums of the outputs of a chunk to y. The tile has x_scale, x_zero_point, w_sum, scale, bias, bias_q, low, high, y_zero_point, y, ldy (bytes),
// and columns, the outputs that exist.
struct SparseFinish {
  const int32_t* sum;  // [outputs][64]
  int rows;
  bool by_output;  // y is [outputs][rows]
  bool few;        // sum is [rows][kSparseSums]
  S8Tile t;
};

typedef void (*SparseMultiply)(const SparseGroup&);
typedef void (*SparseFewMultiply)(const SparseFew&);
typedef void (*SparseFinishFunction)(const SparseFinish&);

struct SparseFewKernel {
  SparseFewMultiply multiply[2];  // each output alone, 4 outputs that share columns; null where there is none
  int rows[2];                    // up to so many they are faster than a panel
  int column_bytes;               // of columns: 1, or 4, of which 3 are 0
  int positions;                  // of a block at the most
};

// Columns of fewer rows than 64, for a panel that has no more.
struct SparseNarrowColumns {
  int rows;  // 0 where there are none
  SparseMultiply multiply[2];
  void (*to_columns)(uint8_t* panel, int64_t positions);
};

struct SparseF32Kernel {
  const char* name;
  int vl;                      // rows of a vector
  SparseMultiply multiply[2];  // each output alone, 4 outputs that share columns
  SparseFewKernel few;
  SparseFinishFunction finish;
  uint8_t (*largest)(const uint8_t* position, int64_t count);
  // panel[i * stride + r] = x[r * ld + i] for `count` dwords of up to vl rows; the last row again for rows that do not exist.
  void (*transpose)(const float* x, ptrdiff_t ld, int rows, int64_t count, float* panel, ptrdiff_t stride);
};

struct SparseS8Kernel {
  const char* name;
  int vl;
  bool saturates;  // takes weights only whose neighbours stay within int16 together
  SparseMultiply quads[2], columns[2];
  SparseFewKernel few, few_columns;
  SparseFewKernel few_columns_vbmi;  // where the CPU has AVX-512 VBMI
  SparseFinishFunction s32, f32, q8;
  uint8_t (*largest)(const uint8_t* position, int64_t count);
  // 4 rows of 64 bytes to the 64 dwords of a position.
  void (*interleave)(const uint8_t* bytes, uint8_t* quads);
  void (*transpose)(const float* x, ptrdiff_t ld, int rows, int64_t count, float* panel, ptrdiff_t stride);
  // In place: positions of 64 dwords to 4 columns of 64 bytes each, in the order that `columns` wants.
  void (*to_columns)(uint8_t* panel, int64_t positions);
  SparseNarrowColumns narrow;
};

}  // namespace pc
