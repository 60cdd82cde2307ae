// int8 GEMM by vpdpbusd: a lane takes 4 values of k, uint8 from x and int8 from w, and adds their products exactly.
//
// Tile: AVX-512 12 x 32 (24 accumulators, 2 weight vectors, a broadcast; 27 of 32 registers), AVX-VNNI 6 x 16 (12, 2, 1 of 16). A step of 4 k
// loads 2 weight vectors and MR broadcasts for 2 * MR products, so the multiplier is the bound and the loads fit beside it. Rows of x
// stay rows: a broadcast of 4 bytes needs no interleaving, and rows whose stride is an odd number of cache lines do not fight
// for the same L1 set. The panel of w is streamed from L2 once per tile. The zero point of x is in the accumulators from the start:
// -zero_point * sum(w).
#include "gemm/gemm.h"
#include "gemm/s8_last_step.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int NV = 2;
constexpr int MR = VL == 16 ? 12 : 6;

template <int R, class Last> void tile(const S8Tile& t) {
  vi acc[R][NV];
  PC_UNROLL for (int r = 0; r < R; ++r) {
    const vi zero_point = vi_set1(-t.x_zero_point[r]);
    PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = vi_mul(zero_point, vi_load(t.w_sum + v * VL));
  }
  // One pointer for every 4 rows: the other 3 are reached by ldx, 2 * ldx (a scaled index) and 3 * ldx.
  const ptrdiff_t ld1 = t.ldx, ld3 = 3 * t.ldx;
  const uint8_t* x0 = (const uint8_t*)t.x;
  const uint8_t* x4 = R > 4 ? x0 + 4 * ld1 : x0;
  const uint8_t* x8 = R > 8 ? x0 + 8 * ld1 : x0;
  const int8_t* w = t.w;
  for (int64_t s = t.steps; s > 0; --s) {
    vi b[NV];
    PC_UNROLL for (int v = 0; v < NV; ++v) b[v] = vi_load((const int32_t*)(w + v * VL * 4));
    PC_UNROLL for (int r = 0; r < R; ++r) {
      const uint8_t* x = r < 4 ? x0 : r < 8 ? x4 : x8;
      const int q = r % 4;
      const vi a = vi_broadcast_quad(q == 0 ? x : q == 1 ? x + ld1 : q == 2 ? x + 2 * ld1 : x + ld3);
      PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = vi_dot4(acc[r][v], a, b[v]);
    }
    w += NV * VL * 4;
    x0 += 4;
    x4 += 4;
    x8 += 4;
  }
  last_step<Last>(t, acc);
}

void pack_row_8(const void* x, bool is_signed, int64_t k, int32_t, void* row, int64_t k_padded) {
  memcpy(row, x, (size_t)k);
  uint8_t* y = (uint8_t*)row;
  if (is_signed)
    for (int64_t i = 0; i < k; ++i) y[i] ^= 0x80;  // + 128
  memset(y + k, 0, (size_t)(k_padded - k));
}

template <class Last, int R> constexpr void fill(S8TileFunction* by_rows) {
  by_rows[R - 1] = tile<R, Last>;
  if constexpr (R > 1) fill<Last, R - 1>(by_rows);
}

constexpr GemmS8Kernel make() {
  GemmS8Kernel kernel{"gemm_s8/" PC_ISA_NAME, MR, NV * VL, 4, 1, {}, {}, {}, pack_row_8};
  fill<ToS32, MR>(kernel.s32);
  fill<ToF32, MR>(kernel.f32);
  fill<ToQ8, MR>(kernel.q8);
  return kernel;
}

}  // namespace

extern const GemmS8Kernel gemm_s8;
constexpr GemmS8Kernel gemm_s8 = make();

}  // namespace PC_NS
}  // namespace pc
