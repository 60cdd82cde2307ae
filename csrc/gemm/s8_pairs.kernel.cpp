// int8 GEMM by vpmaddwd: a lane takes 2 values of k as int16 and adds their products exactly; vpmaddubsw would take 4 but saturates: see
// s8_split.kernel.cpp. For weights with too many pairs that would.
//
// Tile: AVX2 6 x 16 (12 accumulators, 2 weight vectors, a broadcast, a product: all 16 registers), scalar 4 x 4. x is widened when it is
// packed, its zero point taken off, so the last step needs no correction. w stays int8 in memory, half the traffic, and is widened in
// registers: 2 vpmovsxbw for 2 * MR products; a short panel that serves many rows is widened once, beforehand. Bound: 2 instructions (vpmaddwd,
// vpaddd) for 16 MACs.
#include "gemm/gemm.h"
#include "gemm/s8_last_step.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int NV = VL == 1 ? 4 : 2;
constexpr int MR = VL == 1 ? 4 : 6;

template <int R, class Last, bool Wide> void tile(const S8Tile& t) {
  vi acc[R][NV];
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = t.start ? vi_load(t.start + v * VL) : vi_zero();
  const ptrdiff_t ld1 = t.ldx, ld3 = 3 * t.ldx;
  const char* x0 = (const char*)t.x;
  const char* x4 = R > 4 ? x0 + 4 * ld1 : x0;
  const int8_t* w = t.w;
  constexpr int size = Wide ? 2 : 1;
  PC_UNROLL_2 for (int64_t s = t.steps; s > 0; --s) {
    vi b[NV];
    PC_UNROLL for (int v = 0; v < NV; ++v) b[v] = Wide ? vi_load((const int32_t*)(w + v * VL * 4)) : vi_load_s8_pairs(w + v * VL * 2);
    PC_UNROLL for (int r = 0; r < R; ++r) {
      const char* x = r < 4 ? x0 : x4;
      const int q = r % 4;
      const vi a = vi_broadcast_pair((const int16_t*)(q == 0 ? x : q == 1 ? x + ld1 : q == 2 ? x + 2 * ld1 : x + ld3));
      PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = vi_dot2(acc[r][v], a, b[v]);
      PC_UNROLL for (int v = 0; VL > 1 && v < NV; ++v) pin(acc[r][v]);
    }
    w += NV * VL * 2 * size;
    x0 += 4;
    x4 += 4;
  }
  last_step<Last>(t, acc);
}

void pack_row_8(const void* x, bool is_signed, int64_t k, int32_t zero_point, void* row, int64_t k_padded) {
  int16_t* y = (int16_t*)row;
  const int16_t z = (int16_t)zero_point;
  if (is_signed)
    for (int64_t i = 0; i < k; ++i) y[i] = (int16_t)(((const int8_t*)x)[i] - z);
  else
    for (int64_t i = 0; i < k; ++i) y[i] = (int16_t)(((const uint8_t*)x)[i] - z);
  for (int64_t i = k; i < k_padded; ++i) y[i] = 0;
}

[[maybe_unused]] void widen(const int8_t* panel, int64_t count, int16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = panel[i];
}

template <class Last, bool Wide, int R> constexpr void fill(S8TileFunction* by_rows) {
  by_rows[R - 1] = tile<R, Last, Wide>;
  if constexpr (R > 1) fill<Last, Wide, R - 1>(by_rows);
}

constexpr GemmS8Kernel make() {
  GemmS8Kernel kernel{"gemm_s8/" PC_ISA_NAME, MR, NV * VL, 2, 2, {}, {}, {}, pack_row_8, nullptr, nullptr, nullptr, {}, {}, {}};
  fill<ToS32, false, MR>(kernel.s32);
  fill<ToF32, false, MR>(kernel.f32);
  fill<ToQ8, false, MR>(kernel.q8);
  if constexpr (VL > 1) {
    kernel.widen = widen;
    fill<ToS32, true, MR>(kernel.wide_s32);
    fill<ToF32, true, MR>(kernel.wide_f32);
    fill<ToQ8, true, MR>(kernel.wide_q8);
  }
  return kernel;
}

}  // namespace

extern const GemmS8Kernel gemm_s8;
constexpr GemmS8Kernel gemm_s8 = make();

}  // namespace PC_NS
}  // namespace pc
