// Independent accumulators, nothing loaded: 12 hide the latency of every multiply-add there is. pin() also keeps the compiler from seeing that the
// operands never change.
#include "peak/peak.h"

#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int CHAINS = 12;

double f32(int64_t iterations) {
  vf acc[CHAINS], a = vf_set1(1.0f), b = vf_set1(0.5f);
  PC_UNROLL for (int c = 0; c < CHAINS; ++c) acc[c] = vf_zero();
  pin(b);
  for (int64_t i = 0; i < iterations; ++i) {
    PC_UNROLL for (int c = 0; c < CHAINS; ++c) {
      pin(a);
      acc[c] = vf_muladd(a, b, acc[c]);
      pin(acc[c]);
    }
  }
  return (double)iterations * CHAINS * VL;
}

double s8(int64_t iterations) {
  vi acc[CHAINS], a = vi_set1(0x01010101), b = vi_set1(0x01010101);
  PC_UNROLL for (int c = 0; c < CHAINS; ++c) acc[c] = vi_zero();
  pin(b);
  for (int64_t i = 0; i < iterations; ++i) {
    PC_UNROLL for (int c = 0; c < CHAINS; ++c) {
      pin(a);
#if !defined(PC_ISA_SCALAR)
      acc[c] = vi_dot4(acc[c], a, b);
#else
      acc[c] = vi_dot2(acc[c], a, b);
#endif
      pin(acc[c]);
    }
  }
#if !defined(PC_ISA_SCALAR)
  constexpr int products = 4;
#else
  constexpr int products = 2;
#endif
  return (double)iterations * CHAINS * VL * products;
}

}  // namespace

extern const PeakKernel peak;
const PeakKernel peak = {"peak/" PC_ISA_NAME, f32, s8};

}  // namespace PC_NS
}  // namespace pc
