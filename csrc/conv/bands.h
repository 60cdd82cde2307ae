// The result of a convolution in bands of rows, each of which waits in L2 until the next layer has read it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/memory.h"
#include "pycompress.h"

namespace pc {

struct Bands {
  int64_t rows, count;  // of a band; bands of an image
};

// row_bytes: of the result. Few bands: each begins by reading anew the rows that it shares with the one before, and by preparing the last steps. All
// threads have some.
inline Bands bands_of(int64_t batch, int64_t oh, int64_t row_bytes, int32_t nth) {
  constexpr int64_t kBytes = 512 * 1024;  // in L2, where they cost nothing
  constexpr int64_t kTileRows = 2;        // of a depthwise tile
  const int64_t most = std::max<int64_t>(1, kBytes / std::max<int64_t>(row_bytes, 1));
  const int64_t count = std::min(oh, std::max(divide_up(oh, most), divide_up(int64_t{nth}, std::max<int64_t>(batch, 1))));
  const int64_t rows = divide_up(divide_up(oh, count), kTileRows) * kTileRows;
  return {rows, divide_up(oh, rows)};
}

// Rows of x, the padding's too, under `count` rows of the result.
inline int64_t rows_under(const pc_conv_desc& whole, int64_t count) {
  return (count - 1) * whole.stride_height + (whole.kernel_height - 1) * whole.dilation_height + 1;
}

// Rows [begin, end) of an image's result as a convolution of the rows of x that they need, which begin x_offset values after x. The strides and
// dilations of `whole` are given.
inline pc_conv_desc band_of(const pc_conv_desc& whole, int64_t image, int64_t begin, int64_t end, int64_t* x_offset) {
  pc_conv_desc d = whole;
  const int64_t first = begin * d.stride_height - d.pad_top;
  const int64_t read = rows_under(whole, end - begin);
  const int64_t top = std::clamp<int64_t>(first, 0, d.height), bottom = std::clamp<int64_t>(first + read, top, d.height);
  d.batch = 1;
  d.height = bottom - top;
  d.pad_top = std::clamp<int64_t>(top - first, 0, read);
  d.pad_bottom = read - d.pad_top - d.height;
  *x_offset = (image * whole.height + top) * d.width * d.channels;
  return d;
}

// A band of `count` rows as far from the padding as it can be: no other reads more rows of x, or needs more workspace.
inline pc_conv_desc largest_band(const pc_conv_desc& whole, int64_t count) {
  pc_conv_desc d = whole;
  const int64_t read = rows_under(whole, count);
  d.batch = 1;
  d.height = std::min(whole.height, read);
  d.pad_top = 0;
  d.pad_bottom = read - d.height;
  return d;
}

}  // namespace pc
