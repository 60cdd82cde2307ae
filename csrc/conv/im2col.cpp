// Rows of the im2col matrix: for an output pixel the pixels under the kernel, (kh, kw, channels). The dense convolution multiplies some of them
// while they are in the cache; the whole matrix is never made.
//
// Where the kernel lies within the image a row is kh runs of kw * channels contiguous bytes. Short runs are copied here, in pieces of 16 bytes that
// may reach over their end: what lies there is written next. Only the last rows of a call, and the end of x, are copied to the byte. Long ones are
// copied by a kernel.
#include "conv/im2col.h"

#include "conv/im2col_kernel.h"
#include "core/dispatch.h"
#include "gemm/quantized.h"

#include <cstring>

namespace pc {
namespace {

constexpr int64_t kPiece = 16;

inline void copy_piece(char* to, const char* from) {
  char piece[kPiece];
  std::memcpy(piece, from, kPiece);
  std::memcpy(to, piece, kPiece);
}

}  // namespace

pc_status Im2col::open(const pc_conv_desc& desc, const void* data, int64_t first_channel, int64_t channels) {
  PC_TRY(geometry_of(&desc, &g_));
  PC_CHECK(desc.x_type == PC_F32 || desc.x_type == PC_U8 || desc.x_type == PC_S8, PC_ERROR_TYPE, "x_type is %d, wanted PC_F32, PC_U8 or PC_S8",
           desc.x_type);
  PC_CHECK(first_channel >= 0 && channels >= 0 && first_channel <= g_.channels && channels <= g_.channels - first_channel, PC_ERROR_SHAPE,
           "channels are %lld from %lld on, wanted some of x's %lld", ll(channels), ll(first_channel), ll(g_.channels));
  const size_t element = desc.x_type == PC_F32 ? 4 : 1;
  const Bounds zero = bounds_of(desc.x_type);
  PC_CHECK(desc.x_type == PC_F32 || (desc.x_zero_point >= zero.low && desc.x_zero_point <= zero.high), PC_ERROR_VALUE,
           "x_zero_point is %d, wanted %d to %d", desc.x_zero_point, zero.low, zero.high);
  size_t row = element;
  for (const int64_t size : {g_.kh, g_.kw, channels})
    PC_CHECK(multiply(row, static_cast<size_t>(size), &row) && row <= PTRDIFF_MAX, PC_ERROR_OVERFLOW, "%lld x %lld pixels are larger than memory",
             ll(g_.kh), ll(g_.kw));
  padding_ = element == 1 ? desc.x_zero_point & 0xff : 0;  // 0 is 0 in float32, too
  pixel_ = g_.channels * static_cast<int64_t>(element);
  run_ = channels * static_cast<int64_t>(element);
  row_ = static_cast<int64_t>(row);
  x_bytes_ = static_cast<size_t>(g_.batch * g_.height * g_.width * pixel_);
  PC_CHECK(data || !x_bytes_, PC_ERROR_NULL, "x is NULL");
  PC_CHECK(is_aligned(data, element), PC_ERROR_ALIGNMENT, "x is not aligned to its element type");
  x_ = static_cast<const char*>(data);
  first_ = x_ + first_channel * static_cast<int64_t>(element);
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  kernel_ = kernels->im2col;
  contiguous_ = g_.dw == 1 && run_ == pixel_;
  return PC_OK;
}

// kw pixels from (iy, ix) on; some or all of them are not there.
void Im2col::taps(const char* image, int64_t iy, int64_t ix, char* to) const {
  if (iy < 0 || iy >= g_.height) {
    std::memset(to, padding_, static_cast<size_t>(g_.kw * run_));
    return;
  }
  const char* row = image + iy * g_.width * pixel_;
  for (int64_t kx = 0; kx < g_.kw; ++kx, to += run_) {
    const int64_t at = ix + kx * g_.dw;
    if (at < 0 || at >= g_.width)
      std::memset(to, padding_, static_cast<size_t>(run_));
    else
      std::memcpy(to, row + at * pixel_, static_cast<size_t>(run_));
  }
}

void Im2col::write(int64_t first, int64_t count, char* to, size_t stride) const {
  if (row_ == 0) return;
  const bool short_runs = g_.kw * run_ <= kPiece;
  const bool slack = static_cast<int64_t>(stride) >= row_ + kPiece;  // behind the last row, too
  const int64_t of_taps = g_.kw * run_;
  // Rows that short runs are copied into: the pieces of those behind, the last of them, would reach beyond the end.
  const int64_t whole = slack ? count : count - divide_up(std::max<int64_t>(kPiece - of_taps, 0), static_cast<int64_t>(stride));
  const int64_t rounded = std::max(of_taps, kPiece), image_bytes = g_.height * g_.width * pixel_;
  const int64_t right = g_.sw * pixel_, down = g_.dh * g_.width * pixel_;
  int64_t b = first / (g_.oh * g_.ow), oy = first / g_.ow % g_.oh, ox = first % g_.ow;
  for (int64_t i = 0; i < count;) {
    const char* image = first_ + b * image_bytes;
    const int64_t iy = oy * g_.sh - g_.top, end = std::min(g_.ow, ox + count - i);
    // Pixels [begin, stop) have all their taps in the image, in runs that can be copied in whole pieces.
    int64_t begin = end, stop = end;
    if (contiguous_ && iy >= 0 && iy + (g_.kh - 1) * g_.dh < g_.height) {
      const int64_t room = x_ + x_bytes_ - (image + (iy * g_.width - g_.left) * pixel_ + (g_.kh - 1) * down) - rounded;  // of pixel 0
      begin = std::max(ox, first_inside(g_.left, g_.sw));
      stop = std::min({end, end_inside(g_.width, g_.left, g_.sw, g_.kw - 1), room < 0 ? 0 : room / right + 1});
      if (short_runs) stop = std::min(stop, ox + whole - i);
    }
    while (ox < end) {
      const int64_t ix = ox * g_.sw - g_.left;
      if (ox != begin || begin >= stop) {
        char* at = to;
        for (int64_t ky = 0; ky < g_.kh; ++ky, at += of_taps) taps(image, iy + ky * g_.dh, ix, at);
        ++ox, ++i, to += stride;
        continue;
      }
      const char* from = image + (iy * g_.width + ix) * pixel_;
      const int64_t pixels = stop - ox;
      if (short_runs) {
        for (int64_t j = 0; j < pixels; ++j)
          for (int64_t ky = 0; ky < g_.kh; ++ky) copy_piece(to + j * static_cast<int64_t>(stride) + ky * of_taps, from + j * right + ky * down);
      } else {
        kernel_->copy(from, right, down, g_.kh, of_taps, to, static_cast<ptrdiff_t>(stride), pixels);
      }
      i += pixels;
      ox += pixels;
      to += pixels * static_cast<int64_t>(stride);
    }
    ox = 0;
    if (++oy == g_.oh) {
      oy = 0;
      ++b;
    }
  }
}

}  // namespace pc

extern "C" {

pc_status pc_im2col_run(const pc_conv_desc* desc, const void* x, int64_t first_channel, int64_t channels, int64_t first, int64_t count, void* out) {
  using namespace pc;
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  Im2col rows;
  PC_TRY(rows.open(*desc, x, first_channel, channels));
  PC_CHECK(first >= 0 && count >= 0 && first <= rows.count() - count, PC_ERROR_SHAPE, "rows are %lld from %lld on, wanted some of the %lld",
           ll(count), ll(first), ll(rows.count()));
  const size_t row = static_cast<size_t>(rows.row_bytes());
  size_t bytes;
  PC_CHECK(multiply(static_cast<size_t>(count), row, &bytes) && bytes <= PTRDIFF_MAX, PC_ERROR_OVERFLOW, "out is larger than memory");
  PC_CHECK(out || !bytes, PC_ERROR_NULL, "out is NULL");
  PC_CHECK(is_aligned(out, size_of(desc->x_type)), PC_ERROR_ALIGNMENT, "out is not aligned to its element type");
  PC_CHECK(!overlap(out, bytes, x, rows.x_bytes()), PC_ERROR_OVERLAP, "out overlaps x");
  rows.write(first, count, static_cast<char*>(out), row);
  return PC_OK;
}
}
