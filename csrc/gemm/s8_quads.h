// The int8 tile over groups of 4 values of k, uint8 from x and int8 from w, which a lane multiplies and adds at once.
//
// Tile: AVX-512 12 x 32 (24 accumulators, 2 weight vectors, a broadcast; 27 of 32 registers), AVX2 6 x 16 (12, 2, 1 of 16). A step of 4 k loads 2
// weight vectors and MR broadcasts for 2 * MR products, so the multiplier is the bound and the loads fit beside it. Rows of x stay
// rows: a broadcast of 4 bytes needs no interleaving, and rows whose stride is an odd number of cache lines do not fight for the
// same L1 set. The panel of w is streamed from L2 once per tile. The zero point of x is in the accumulators from the start:
// -zero_point * sum(w), with the bias where the driver has both at hand; with Split so are the products with what was taken out of w.
#pragma once

#include "gemm/gemm.h"
#include "gemm/s8_last_step.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int NV = 2;  // of a panel; half of it has its own tile
constexpr int MR = VL == 16 ? 12 : 6;
constexpr int AHEAD = 4096;  // bytes of a split panel, prefetched where few rows make memory the bound

#if defined(PC_ISA_AVX2)  // vpmaddubsw and vpmaddwd: beside 12 accumulators, no register is left for the latter's ones
template <bool Tight> PC_INLINE vi dot4(vi c, vi a, vi b) { return Tight ? vi_dot4_tight(c, a, b) : vi_dot4(c, a, b); }
#else
template <bool> PC_INLINE vi dot4(vi c, vi a, vi b) { return vi_dot4(c, a, b); }
#endif

template <int R, class Last, bool Split, int V = NV> void tile(const S8Tile& t) {
  vi acc[R][V];
  PC_UNROLL for (int r = 0; r < R; ++r) {
    PC_UNROLL for (int v = 0; v < V; ++v)
      acc[r][v] = t.start ? vi_load(t.start + v * VL) : vi_mul(vi_set1(-t.x_zero_point[r]), vi_load(t.w_sum + v * VL));
    if (Split && t.rest)
      PC_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = vi_add(acc[r][v], vi_load(t.rest + r * NV * VL + v * VL));
  }
  // One pointer for every 4 rows: the other 3 are reached by ldx, 2 * ldx (a scaled index) and 3 * ldx.
  const ptrdiff_t ld1 = t.ldx, ld3 = 3 * t.ldx;
  const uint8_t* x0 = (const uint8_t*)t.x;
  const uint8_t* x4 = R > 4 ? x0 + 4 * ld1 : x0;
  const uint8_t* x8 = R > 8 ? x0 + 8 * ld1 : x0;
  const int8_t* w = t.w;
  for (int64_t s = t.steps; s > 0; --s) {
    if (Split && R <= 2) prefetch(w + AHEAD);
    vi b[V];
    PC_UNROLL for (int v = 0; v < V; ++v) b[v] = vi_load((const int32_t*)(w + v * VL * 4));
    PC_UNROLL for (int r = 0; r < R; ++r) {
      const uint8_t* x = r < 4 ? x0 : r < 8 ? x4 : x8;
      const int q = r % 4;
      const vi a = vi_broadcast_quad(q == 0 ? x : q == 1 ? x + ld1 : q == 2 ? x + 2 * ld1 : x + ld3);
      PC_UNROLL for (int v = 0; v < V; ++v) {
        acc[r][v] = dot4<R * V == 12 && Split>(acc[r][v], a, b[v]);
        if (Split) pin(acc[r][v]);
      }
    }
    w += NV * VL * 4;
    x0 += 4;
    x4 += 4;
    x8 += 4;
  }
  last_step<Last>(t, acc);
}

void pack_rows_8(const void* x, ptrdiff_t ldx, int rows, bool is_signed, int64_t k, int32_t, void* out, ptrdiff_t row_bytes, int64_t k_padded) {
  for (int r = 0; r < rows; ++r) {
    uint8_t* y = (uint8_t*)out + r * row_bytes;
    memcpy(y, (const char*)x + r * ldx, (size_t)k);
    if (is_signed)
      for (int64_t i = 0; i < k; ++i) y[i] ^= 0x80;  // + 128
    memset(y + k, 0, (size_t)(k_padded - k));
  }
}

template <bool Split, class Last, int V, int R> constexpr void fill(S8TileFunction* by_rows) {
  by_rows[R - 1] = tile<R, Last, Split, V>;
  if constexpr (R > 1) fill<Split, Last, V, R - 1>(by_rows);
}

template <bool Split> constexpr GemmS8Kernel quads(const char* name) {
  GemmS8Kernel kernel{name, MR, NV * VL, 4, 1, {}, pack_rows_8, nullptr, nullptr, nullptr, {}, {}, {}};
  fill<Split, ToS32, NV, MR>(kernel.tiles.s32);
  fill<Split, ToF32, NV, MR>(kernel.tiles.f32);
  fill<Split, ToQ8, NV, MR>(kernel.tiles.q8);
  fill<Split, ToQ8, NV / 2, MR>(kernel.tiles.q8_half);
  return kernel;
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
