// The last step of the int8 depthwise kernels where it is not in their tiles.
#pragma once

#include "conv/depthwise.h"
#include "gemm/s8_last_step.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

template <class Last> void finish(const S8Tile& t, const int32_t* sums, ptrdiff_t ldx, int64_t count) {
  Last last(t);
  for (int64_t i = 0; i < count; ++i) {
    last.row(t, 0);
    char* y = (char*)t.y + i * t.ldy;
    for (int c = 0, v = 0; c < t.columns; c += VL, ++v) {
      const int n = t.columns - c < VL ? t.columns - c : VL;
      const vi sum = n == VL ? vi_load(sums + i * ldx + c) : vi_loadn(sums + i * ldx + c, n);
      last.store(t, y, sum, v, n);
    }
  }
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
