// A convolution's sizes, checked.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/memory.h"
#include "core/status.h"

namespace pc {

// A descriptor with its defaults filled in, and the size of its result.
struct Geometry {
  int64_t batch, height, width, channels, outputs, kh, kw, sh, sw, dh, dw, top, left, oh, ow;

  int64_t pixels() const { return batch * oh * ow; }
};

pc_status geometry_of(const pc_conv_desc* desc, Geometry* geometry);

// Of a dense convolution: that channels and outputs fall into groups, of which `group` is one.
pc_status check_groups(const pc_conv_desc* desc, int64_t group, int64_t groups);

// Outputs [begin, end) of a row or column whose taps all lie within the image: first tap at i * stride - pad, last one reach further.
inline int64_t first_inside(int64_t pad, int64_t stride) { return divide_up(pad, stride); }
inline int64_t end_inside(int64_t size, int64_t pad, int64_t stride, int64_t reach) {
  const int64_t last = size - 1 - reach + pad;
  return last < 0 ? 0 : last / stride + 1;
}

}  // namespace pc
