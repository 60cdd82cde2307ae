// What the depthwise kernels of one ISA offer, and what they are handed.
//
// Channels are cut into blocks. What is left over is a block of its own: where it fits into half of one, an int8 block is "dual": both halves hold
// the same channels, of a strip and of the one below it. int8 loads are of whole blocks (dual: of halves) and may reach into the next pixel: the
// driver sees to it that they stay within the image. Nothing is written beyond the channels that exist.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/gemm.h"

namespace pc {

constexpr int kMaxBlock = 64;         // channels of an int8 block
constexpr int kMaxTileRows = 7;       // of the image, under a tile
constexpr int kMaxTileColumns = 12;   // of the image, under a tile
constexpr int kMaxColumns = 36;       // of the image, under a strip of an int8 kernel at a time
constexpr int kMaxColumnBytes = 512;  // of one of them in the kernel's buffer

// What a call works on. Addresses of pixels are those of the block's first channel; distances are bytes.
struct DepthwiseTile {
  const char* const* pixel;  // edges and taps: a pointer for each pixel under the tile
  ptrdiff_t offset;          // added to each of them
  ptrdiff_t pixel_bytes;     // strips: from pixel to pixel of x
  int64_t count;             // strips: tiles (int8: outputs of a row); taps: outputs
  int64_t taps;              // taps: pointers of an output
  const void* w;             // of the block
  char* y;                   // the first output
  ptrdiff_t y_row, y_pixel;  // from output to output
  int columns;               // edges: outputs of a row that exist
  int rows;                  // of outputs that exist
  int channels;              // of the block that exist
  int blocks;                // so many blocks one after another; 1 when sums go to `raw`
  ptrdiff_t w_bytes;         // from block to block
};

struct DepthwiseS8Tile : DepthwiseTile {
  // Strips: rows of x under it from column 0 on, `offset` added; dual: those under the strip below follow. Of a row beyond the image all is a line
  // of zero points. Columns from `direct` on can't be loaded whole where they lie: copy[] holds them.
  const char* row[2 * kMaxTileRows];
  const char* copy[2 * kMaxTileRows];
  int32_t x_zero_point;             // as uint8: of columns beyond the image
  int64_t column, direct, width;    // the first column under the strip, which may lie before the image; those of x
  char* buffer;                     // [kMaxColumns * kMaxColumnBytes], aligned
  const int32_t* start;             // [block], in the kernel's order: where the sums begin
  const float* mult;                // [block], in the kernel's order
  int32_t y_zero_point, low, high;  // of the result as uint8: an int8 result is flipped by 0x80 at the end
  uint8_t flip;                     // 0 or 0x80
  bool dual;
  int32_t* raw;  // instead of y, or nullptr: [rows][raw_columns][block], channels in order
  ptrdiff_t raw_columns;
};

typedef void (*DepthwiseS8Function)(const DepthwiseS8Tile&);

// A kernel for k x k and one stride, with dilation 1: a strip of so many rows of outputs; by [dual][x is int8].
struct DepthwiseS8Shape {
  int k, stride, rows;
  DepthwiseS8Function strip[2][2];
};

constexpr int kDepthwiseShapes = 4;

struct DepthwiseS8Kernel {
  const char* name;
  int block, group;                           // channels; taps of one lane
  DepthwiseS8Shape shapes[kDepthwiseShapes];  // those with k 0 are not there
  DepthwiseS8Function taps[2][2];             // any taps, by pointers, for outputs one after another; by [to raw][x is int8]
  // The packed weight of a block, from w [channels][kh * kw]. A dual block holds the channels twice.
  size_t (*block_bytes)(int64_t kh, int64_t kw);
  size_t (*taps_offset)(int64_t kh, int64_t kw);  // of what `taps` reads; tiles of a shape read from the beginning
  void (*pack_block)(const int8_t* w, int channels, bool dual, int64_t kh, int64_t kw, void* block);
  // 4-byte values of a block's channels in the kernel's order: n from `natural`, zeros behind them. Dual blocks hold them twice.
  void (*order)(const void* natural, int n, bool dual, void* ordered);
  // Sums [count][ldx] as results, by the last step of gemm_s8; of the tile's fields those after `rest`, and x_scale.
  void (*finish[3])(const S8Tile& t, const int32_t* sums, ptrdiff_t ldx, int64_t count);  // to int32, float32, uint8 and int8
};

struct DepthwiseF32Tile : DepthwiseTile {
  const char* row[kMaxTileRows];  // strips: the first pixel of each row under the first tile
  const float* bias;              // of the block, or nullptr
  float low, high;
  bool together;  // a cache line would be gone when the next block comes back to it: its blocks go together
};

typedef void (*DepthwiseF32Function)(const DepthwiseF32Tile&);

struct DepthwiseF32Shape {
  int k, stride, rows, columns;
  DepthwiseF32Function strip, edge, edge_row;
};

struct DepthwiseF32Kernel {
  const char* name;
  int block;  // channels
  DepthwiseF32Shape shapes[kDepthwiseShapes];
  DepthwiseF32Function taps;
};

}  // namespace pc
