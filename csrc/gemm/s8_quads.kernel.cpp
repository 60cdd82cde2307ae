// int8 GEMM by vpdpbusd, which adds the 4 products of a lane exactly. Tile and bound: s8_quads.h; of few values of k, s8_short.h.
#include "gemm/s8_short.h"

namespace pc {
namespace PC_NS {
namespace {

#if defined(PC_SIMDE)
constexpr int SHORT_STEPS = 2;  // the others would take minutes to compile
#else
constexpr int SHORT_STEPS = kShortSteps;
#endif

constexpr GemmS8Kernel make() {
  GemmS8Kernel kernel = quads<false>("gemm_s8/" PC_ISA_NAME);
  if constexpr (VL == 16) {  // enough registers
    fill_short<NV, SHORT_STEPS>(kernel.q8_short);
    fill_short<NV / 2, SHORT_STEPS>(kernel.q8_short_half);
  }
  return kernel;
}

}  // namespace

extern const GemmS8Kernel gemm_s8;
constexpr GemmS8Kernel gemm_s8 = make();

}  // namespace PC_NS
}  // namespace pc
