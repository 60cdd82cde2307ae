// What the drivers of both GEMMs share about the last step.
#pragma once

#include <cmath>
#include <limits>

#include "core/status.h"

namespace pc {

// hardswish, silu and gelu are no clamp: they run on the finished float32 tile, while it is in L1.
inline bool is_curve(pc_activation activation) { return activation > PC_ACTIVATION_CLAMP; }

// So many rows that a step beyond the last one can't overflow.
inline pc_status check_rows(int64_t m) {
  PC_CHECK(m <= INT64_MAX >> 8, PC_ERROR_OVERFLOW, "m is %lld: no memory holds so many rows", ll(m));
  return PC_OK;
}

// The clamp that the kernel itself applies.
template <class Desc> pc_status clamp_of(const Desc& d, float* low, float* high) {
  PC_CHECK(d.activation >= PC_ACTIVATION_NONE && d.activation <= PC_ACTIVATION_GELU, PC_ERROR_VALUE, "activation is %d, wanted 0 to 4", d.activation);
  const float infinity = std::numeric_limits<float>::infinity();
  const bool clamp = d.activation == PC_ACTIVATION_CLAMP;
  *low = clamp ? d.low : -infinity;
  *high = clamp ? d.high : infinity;
  PC_CHECK(*low <= *high, PC_ERROR_VALUE, "the clamp is (%g, %g), wanted low <= high", static_cast<double>(*low), static_cast<double>(*high));
  return PC_OK;
}

}  // namespace pc
