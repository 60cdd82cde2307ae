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

template <int R, class Last, bool Wide, int V = NV> void tile(const S8Tile& t) {
  vi acc[R][V];
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = t.start ? vi_load(t.start + v * VL) : vi_zero();
  const ptrdiff_t ld1 = t.ldx, ld3 = 3 * t.ldx;
  const char* x0 = (const char*)t.x;
  const char* x4 = R > 4 ? x0 + 4 * ld1 : x0;
  const int8_t* w = t.w;
  constexpr int size = Wide ? 2 : 1;
  PC_UNROLL_2 for (int64_t s = t.steps; s > 0; --s) {
    vi b[V];
    PC_UNROLL for (int v = 0; v < V; ++v) b[v] = Wide ? vi_load((const int32_t*)(w + v * VL * 4)) : vi_load_s8_pairs(w + v * VL * 2);
    PC_UNROLL for (int r = 0; r < R; ++r) {
      const char* x = r < 4 ? x0 : x4;
      const int q = r % 4;
      const vi a = vi_broadcast_pair((const int16_t*)(q == 0 ? x : q == 1 ? x + ld1 : q == 2 ? x + 2 * ld1 : x + ld3));
      PC_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = vi_dot2(acc[r][v], a, b[v]);
      PC_UNROLL for (int v = 0; VL > 1 && v < V; ++v) pin(acc[r][v]);
    }
    w += NV * VL * 2 * size;
    x0 += 4;
    x4 += 4;
  }
  last_step<Last>(t, acc);
}

// N values, by way of arrays of their own: x and y might overlap for all that the compiler knows.
template <int N, class T> PC_INLINE void pack_values(const T* x, int16_t z, int16_t* y) {
  T from[N];
  int16_t to[N];
  memcpy(from, x, sizeof from);
  PC_UNROLL for (int j = 0; j < N; ++j) to[j] = (int16_t)(from[j] - z);
  memcpy(y, to, sizeof to);
}

// Rows may be short: the last values of one are packed together with some that have been already.
template <class T> PC_INLINE void pack_rows(const T* x, ptrdiff_t ldx, int rows, int64_t k, int16_t z, int16_t* y, ptrdiff_t ldy, int64_t k_padded) {
  for (int r = 0; r < rows; ++r, x += ldx, y += ldy) {
    int64_t i = 0;
    for (; i + 16 <= k; i += 16) pack_values<16>(x + i, z, y + i);
    for (; i + 8 <= k; i += 8) pack_values<8>(x + i, z, y + i);
    if (i < k && k >= 8)
      pack_values<8>(x + k - 8, z, y + k - 8);
    else
      for (; i < k; ++i) y[i] = (int16_t)(x[i] - z);
    if (k_padded > k) y[k] = 0;  // one: a loop would become a call of memset
  }
}

void pack_rows_8(const void* x, ptrdiff_t ldx, int rows, bool is_signed, int64_t k, int32_t zero_point, void* out, ptrdiff_t row_bytes,
                 int64_t k_padded) {
  int16_t* y = (int16_t*)out;
  const ptrdiff_t ldy = row_bytes / (ptrdiff_t)sizeof(int16_t);
  if (is_signed)
    pack_rows((const int8_t*)x, ldx, rows, k, (int16_t)zero_point, y, ldy, k_padded);
  else
    pack_rows((const uint8_t*)x, ldx, rows, k, (int16_t)zero_point, y, ldy, k_padded);
}

[[maybe_unused]] void widen(const int8_t* panel, int64_t count, int16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = panel[i];
}

template <class Last, bool Wide, int V, int R> constexpr void fill(S8TileFunction* by_rows) {
  by_rows[R - 1] = tile<R, Last, Wide, V>;
  if constexpr (R > 1) fill<Last, Wide, V, R - 1>(by_rows);
}

template <bool Wide> constexpr void fill_all(S8Tiles* tiles) {
  fill<ToS32, Wide, NV, MR>(tiles->s32);
  fill<ToF32, Wide, NV, MR>(tiles->f32);
  fill<ToQ8, Wide, NV, MR>(tiles->q8);
  if constexpr (VL > 1) fill<ToQ8, Wide, NV / 2, MR>(tiles->q8_half);
}

constexpr GemmS8Kernel make() {
  GemmS8Kernel kernel{"gemm_s8/" PC_ISA_NAME, MR, NV * VL, 2, 2, {}, pack_rows_8, nullptr, nullptr, nullptr, {}, {}, {}};
  fill_all<false>(&kernel.tiles);
  if constexpr (VL > 1) {
    kernel.widen = widen;
    fill_all<true>(&kernel.wide);
  }
  return kernel;
}

}  // namespace

extern const GemmS8Kernel gemm_s8;
constexpr GemmS8Kernel gemm_s8 = make();

}  // namespace PC_NS
}  // namespace pc
