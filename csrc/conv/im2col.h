// Rows of the im2col matrix of an image.
#pragma once

#include "conv/geometry.h"

namespace pc {

struct Im2colKernel;

class Im2col {
 public:
  // Of `channels` channels of x from first_channel on.
  pc_status open(const pc_conv_desc& desc, const void* x, int64_t first_channel, int64_t channels);
  // Rows [first, first + count), `stride` bytes apart. Writes all of each stride.
  void write(int64_t first, int64_t count, char* to, size_t stride) const;
  int64_t count() const { return g_.pixels(); }
  int64_t row_bytes() const { return row_; }
  size_t x_bytes() const { return x_bytes_; }
  const Geometry& geometry() const { return g_; }

 private:
  void taps(const char* image, int64_t iy, int64_t ix, char* to) const;

  Geometry g_{};
  const char *x_ = nullptr, *first_ = nullptr;  // of all channels, and of those that are taken
  size_t x_bytes_ = 0;
  int64_t pixel_ = 0, run_ = 0, row_ = 0;  // bytes of a pixel of x, of what is taken of it, and of a row
  int padding_ = 0;                        // the byte beyond the image
  const Im2colKernel* kernel_ = nullptr;
  bool contiguous_ = false;  // kw pixels lie side by side
};

}  // namespace pc
