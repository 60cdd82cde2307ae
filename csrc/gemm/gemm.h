// What a GEMM kernel of one ISA offers, and what it is handed. Kernels work on one tile: up to mr rows by one panel of nr outputs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pc {

constexpr int kMaxMr = 12, kMaxNr = 32;

// Requantized bytes are clip(q + zero_point, low, high) ^ flip: int8 is uint8 plus 128 until the last operation.
struct ByteRange {
  int16_t zero_point;
  uint8_t low, high, flip;
};

// Arrays of [nr] are padded to the panel; columns says how many of its outputs exist.
struct S8Tile {
  const void* x;                // rows as pack_rows_8 or the quantization kernels made them
  ptrdiff_t ldx;                // bytes from row to row
  const int8_t* w;              // one panel: [steps][nr][group]
  int64_t steps;                // of `group` values of k
  const int32_t* x_zero_point;  // [rows], of the rows as packed
  const int32_t* w_sum;         // [nr] sums over k
  const int32_t* start;         // [nr] what the accumulators start from, in place of -x_zero_point * w_sum; or nullptr
  const int32_t* x_sum;         // [rows] sums over k of x - zero point; only with w_zero_point
  const int32_t* w_zero_point;  // [nr] or nullptr
  const int32_t* rest;          // [rows][nr] products with the rest of a split weight, or nullptr
  const float* x_scale;         // [rows]; f32 only
  const float* scale;           // [nr]: of the weight (f32), or the multiplier of requantization (q8)
  const float* bias;            // [nr] or nullptr; f32 only
  const int32_t* bias_q;        // [nr] or nullptr; to be added with saturation
  float low, high;              // f32: the clamp. q8: the bounds less y_zero_point
  bool clamp;                   // f32: whether low and high matter
  bool plain;                   // no bias_q; f32, s32: all nr outputs; q8: acc * scale stays within int32
  int32_t y_zero_point;         // q8
  ByteRange bytes;              // q8: the same bounds and zero point once more
  void* y;
  ptrdiff_t ldy;  // bytes from row to row
  int columns;
};

typedef void (*S8TileFunction)(const S8Tile&);

// What was taken out of a split weight so that no pair saturates: 4 entries of one output, in order of the outputs.
struct S8RestQuad {
  uint16_t column[4];
  int8_t value[4];  // 0 where there is no entry; the first two can't saturate either, nor can the last two
  uint16_t output;  // of the panel
  uint16_t keep;    // all bits set where the quad before is of the same output, else 0
};

struct S8Rest {
  const S8RestQuad *begin, *end;  // of a panel
  const void* x;                  // rows, ldx bytes apart
  ptrdiff_t ldx;
  const uint8_t* transposed;  // by transpose_rows; or nullptr
  int64_t k, rows;
  int32_t* out;  // [rows][nr], with room for whole groups of transposed_together(rows)
};

// Rows that are transposed together, so that a column of them is a line of the cache; of so many rows altogether.
constexpr int64_t transposed_together(int64_t rows) { return rows <= 16 ? 16 : rows <= 32 ? 32 : 64; }

// One for each kind of result, by rows - 1.
struct S8Tiles {
  S8TileFunction s32[kMaxMr], f32[kMaxMr], q8[kMaxMr];
  S8TileFunction q8_half[kMaxMr];  // the same for a plain tile of up to nr / 2 outputs; nullptr where that is nothing of its own
};

// Any number of rows by a plain panel that has `start`, of few steps.
typedef void (*S8ShortFunction)(const S8Tile&, int64_t rows);
constexpr int kShortSteps = 8;

struct GemmS8Kernel {
  const char* name;
  int mr, nr;
  int group;       // values of k in one 32-bit lane: 4 as uint8, or 2 as int16 with the zero point taken off
  int value_size;  // bytes of a packed value of x: 1 or 2
  S8Tiles tiles;
  // Rows of k values of uint8 or int8, ldx bytes apart, into rows for the kernel, row_bytes apart; in each k_padded - k zeros follow. x_zero_point
  // of the tile is then zero_point + 128 for int8 in groups of 4, and not looked at in groups of 2.
  void (*pack_rows_8)(const void* x, ptrdiff_t ldx, int rows, bool is_signed, int64_t k, int32_t zero_point, void* out, ptrdiff_t row_bytes,
                      int64_t k_padded);
  // Only of a kernel for split weights. Rows as out[][k][transposed_together(rows)]; the products with the rest of a panel.
  void (*transpose_rows)(const void* x, ptrdiff_t ldx, int64_t rows, int64_t k, uint8_t* out);
  void (*rest)(const S8Rest& rest);
  // Only of a kernel that multiplies int16: the same tiles for a panel that widen() has made int16, where one serves many rows.
  void (*widen)(const int8_t* panel, int64_t count, int16_t* out);
  S8Tiles wide;
  S8ShortFunction q8_short[kShortSteps], q8_short_half[kShortSteps];  // by steps - 1; of up to nr / 2 outputs; or nullptr
};

// int4: a chunk is 32 values of k, a group of k one or more chunks with one scale for each output.
constexpr int64_t kS4Chunk = 32;

// Bytes of a group's sum in a packed panel: int16 while 32 values of at least -8 in each chunk fit it, else int32.
constexpr static int64_t s4_sum_bytes(int64_t group_chunks) { return group_chunks * kS4Chunk * 8 <= INT16_MAX ? 2 : 4; }

// Rows of x are uint8, padded to whole chunks with zeros.
struct S4Tile {
  const uint8_t* x;
  ptrdiff_t ldx;
  const char* w;                 // one panel: as it is packed, for `few`; as `expand` made it, for `tile`
  int64_t chunks, group_chunks;  // of k; of a group, the last of which may be shorter
  const int32_t* x_zero_point;   // [rows]
  const int32_t* x_sum;          // [rows][ld_sum] by prepare_few; `few` only
  ptrdiff_t ld_sum;
  const float* x_scale;  // [rows]
  const float* bias;     // [nr] or nullptr
  float low, high;
  float* y;
  ptrdiff_t ldy;  // elements
  int columns;
};

typedef void (*S4TileFunction)(const S4Tile&);

constexpr int kMaxS4Few = 4;

struct GemmS4Kernel {
  const char* name;
  int mr, nr;
  int few_rows;                   // up to so many rows read the panel as it is packed
  S4TileFunction few[kMaxS4Few];  // by rows - 1
  S4TileFunction tile[kMaxMr];    // by rows - 1, over a panel that was expanded
  // A packed panel as int8, with the sums of each group: expanded_bytes(...) of s4_packed.h.
  void (*expand)(const char* panel, int64_t chunks, int64_t group_chunks, char* out);
  // A row for `few`: the values as it wants them, in place, and x_sum.
  void (*prepare_few)(uint8_t* x, int64_t chunks, int64_t group_chunks, int32_t* x_sum);
};

struct F32Tile {
  const float* x;  // rows, ldx elements apart
  ptrdiff_t ldx;
  const void* w;           // one panel: [k][nr] of float32 or float16
  ptrdiff_t panel_stride;  // elements, where a tile takes several panels
  int64_t k;
  const float* bias;  // [nr], of several panels [panels * nr]; or nullptr
  float low, high;
  bool first, last;  // of the blocks of k: start from 0 or from y; do the last step or leave the sum in y
  float* y;
  ptrdiff_t ldy;  // elements
  int columns;
};

typedef void (*F32TileFunction)(const F32Tile&);

constexpr int kMaxPanels = 4;

struct GemmF32Kernel {
  const char* name;
  int mr, nr;
  size_t value_size;             // bytes of a packed value of w: 4, or 2 of float16
  F32TileFunction tile[kMaxMr];  // by rows - 1
  F32TileFunction wide[kMaxMr];  // the same for panels[rows - 1] panels side by side; nullptr where one at a time is as fast
  int panels[kMaxMr];
  // panel[j][i] = w[i * ldn + j * ldk] for columns outputs and k inputs; zeros in the columns beyond.
  void (*pack_panel)(const void* w, int64_t ldn, int64_t ldk, int columns, int64_t k, void* panel);
};

// A few rows of x by one panel of w that is not packed. columns, at least 1, says how many of its nr outputs exist.
struct F32Few {
  const float* x;  // rows, ldx elements apart
  ptrdiff_t ldx;
  const float* w;  // rows of k values, ldn elements apart
  ptrdiff_t ldn;
  int64_t k;
  const float* bias;  // [columns] or nullptr
  float low, high;
  float* y;
  ptrdiff_t ldy;  // elements
  int columns;
};

typedef void (*F32FewFunction)(const F32Few&);

constexpr int kFewRows = 8;

struct GemmF32FewKernel {
  const char* name;
  int nr;
  F32FewFunction rows[kFewRows];  // by rows - 1
};

}  // namespace pc
