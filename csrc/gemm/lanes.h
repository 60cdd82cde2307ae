// Which lanes of a panel's vectors hold outputs that exist.
#pragma once

#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

// Lanes of vector v, of a panel with `columns` outputs: 0 to VL.
PC_INLINE int lanes_of(int columns, int v) {
  const int n = columns - v * VL;
  return n > VL ? VL : n < 0 ? 0 : n;
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
