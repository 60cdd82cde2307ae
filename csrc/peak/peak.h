// The bound of an ISA: its multiply-accumulate instructions on registers alone.
#pragma once

#include <cstdint>

namespace pc {

struct PeakKernel {
  const char* name;
  double (*f32)(int64_t iterations);  // each returns the multiply-accumulates done
  double (*s8)(int64_t iterations);
};

}  // namespace pc
