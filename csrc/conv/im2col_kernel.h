// What copies pixels into rows of the im2col matrix.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pc {

// `pixels` rows, each of `runs` runs of `bytes`, more than 16. The first run of a row lies at `from`, the next `down` further; the first of the next
// row `right` further. Rows are `stride` apart. No byte outside the runs is touched.
struct Im2colKernel {
  const char* name;
  void (*copy)(const char* from, ptrdiff_t right, ptrdiff_t down, int64_t runs, int64_t bytes, char* to, ptrdiff_t stride, int64_t pixels);
};

}  // namespace pc
