// Rows of the im2col matrix, copied. Idea: a run ends with a vector that overlaps the one before, so that no byte beyond it is touched, and there is
// neither a loop over bytes nor a call. Bound: loads and stores, one of each for a vector.
#include "conv/im2col_kernel.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int64_t PIECE = VL > 4 ? VL * 4 : 16;

// Runs of at least N bytes.
template <int64_t N>
void copy_runs(const char* from, ptrdiff_t right, ptrdiff_t down, int64_t runs, int64_t bytes, char* to, ptrdiff_t stride, int64_t pixels) {
  const int64_t last = bytes - N;
  for (; pixels > 0; --pixels, from += right, to += stride)
    for (int64_t k = 0; k < runs; ++k) {
      const char* x = from + k * down;
      char* y = to + k * bytes;
      for (int64_t i = 0; i < last; i += N) memcpy(y + i, x + i, (size_t)N);
      memcpy(y + last, x + last, (size_t)N);
    }
}

void copy(const char* from, ptrdiff_t right, ptrdiff_t down, int64_t runs, int64_t bytes, char* to, ptrdiff_t stride, int64_t pixels) {
  if (bytes >= PIECE)
    copy_runs<PIECE>(from, right, down, runs, bytes, to, stride, pixels);
  else
    copy_runs<16>(from, right, down, runs, bytes, to, stride, pixels);
}

}  // namespace

extern const Im2colKernel im2col;
constexpr Im2colKernel im2col = {"im2col/" PC_ISA_NAME, copy};

}  // namespace PC_NS
}  // namespace pc
