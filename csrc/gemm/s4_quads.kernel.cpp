// int4 GEMM by vpdpbusd: uint8 x by int4 w, exact in int32 within a group of k, groups added in float32.
//
// Tile over an expanded panel: AVX-512 12 x 32, AVX2's width 6 x 16, as for int8. A group's sums begin with -zero_point * sum(w), one vpmaddwd each,
// and end as float32 that is multiplied by the scale and added to the sums of the groups before. Those lie in memory, in L1: registers are full.
// Bound: for a group of 32, 8 products of 64 MACs and 2 more on the same ports, so 0.8 of the int8 kernel; 0.94 for 128.
#include "gemm/s4.h"

namespace pc {
namespace PC_NS {
namespace {

// The steps of a chunk: GCC allocates registers best without a loop. SIMDe's long code compiles for minutes that way.
#if defined(PC_SIMDE)
#define PC_UNROLL_STEPS _Pragma("GCC unroll 1")
#else
#define PC_UNROLL_STEPS PC_UNROLL
#endif

constexpr int MR = VL == 16 ? 12 : 6;

// The high halves are multiplied where they stand, and 16 times their sum is shifted once.
template <int R> PC_INLINE void multiply(const uint8_t* x, ptrdiff_t ldx, const char* w, int64_t chunks, vi (&acc)[R][NV]) {
  vi top[R][NV];
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < NV; ++v) top[r][v] = vi_zero();
  do {
    PC_UNROLL for (int i = 0; i < PACKED_CHUNK; i += 64) prefetch(w + FEW_AHEAD + i);
    PC_UNROLL for (int j = 0; j < 4; ++j)
      PC_UNROLL for (int v = 0; v < NV; ++v) {
        const vi both = load(w + (j * NV + v) * VL * 4);
        PC_UNROLL for (int r = 0; r < R; ++r) {
          acc[r][v] = vi_dot4(acc[r][v], vi_low_nibbles(both), vi_broadcast_quad(x + r * ldx + 8 * j));
          top[r][v] = vi_dot4(top[r][v], vi_top_nibbles(both), vi_broadcast_quad(x + r * ldx + 8 * j + 4));
        }
      }
    x += CHUNK;
    w += PACKED_CHUNK;
  } while (--chunks > 0);
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = vi_add(acc[r][v], vi_sixteenth(top[r][v]));
}

template <int R> void tile(const S4Tile& t) {
  alignas(64) float totals[R * NR];
  int32_t zero_points[R];
  PC_UNROLL for (int r = 0; r < R; ++r) {
    zero_points[r] = zero_point_parts(t.x_zero_point[r]);
    PC_UNROLL for (int v = 0; v < NV; ++v) vf_store(totals + r * NR + v * VL, vf_zero());
  }
  float* total = totals;  // [R][NR]
  const int32_t* zero_point = zero_points;
  // One pointer for every 4 rows: the other 3 are reached by ldx, 2 * ldx (a scaled index) and 3 * ldx.
  const ptrdiff_t ld1 = t.ldx, ld3 = 3 * t.ldx;
  const uint8_t* x0 = t.x;
  const uint8_t* x4 = R > 4 ? x0 + 4 * ld1 : x0;
  const uint8_t* x8 = R > 8 ? x0 + 8 * ld1 : x0;
  const char* w = t.w;
  for (int64_t left = t.chunks; left > 0; left -= t.group_chunks) {
    keep_in_memory(total);
    keep_in_memory(zero_point);
    const float* scale = (const float*)w;
    vi acc[R][NV];
    PC_UNROLL for (int r = 0; r < R; ++r)
      PC_UNROLL for (int v = 0; v < NV; ++v) {
        acc[r][v] = vi_madd_16(vi_set1(zero_point[r]), load(w + NR * 4 + v * VL * 4));
        pin(acc[r][v]);
      }
    w += NR * 8;
    int64_t chunks = least(left, t.group_chunks);
    do {
      PC_UNROLL_STEPS for (int s = 0; s < CHUNK / 4; ++s) {
        vi b[NV];
        PC_UNROLL for (int v = 0; v < NV; ++v) b[v] = load(w + (s * NV + v) * VL * 4);
        PC_UNROLL for (int r = 0; r < R; ++r) {
          const uint8_t* x = (r < 4 ? x0 : r < 8 ? x4 : x8) + 4 * s;
          const int q = r % 4;
          const vi a = vi_broadcast_quad(q == 0 ? x : q == 1 ? x + ld1 : q == 2 ? x + 2 * ld1 : x + ld3);
          PC_UNROLL for (int v = 0; v < NV; ++v) {
            acc[r][v] = vi_dot4(acc[r][v], a, b[v]);
            pin(acc[r][v]);
          }
        }
      }
      w += EXPANDED_CHUNK;
      x0 += CHUNK;
      x4 += CHUNK;
      x8 += CHUNK;
    } while (--chunks > 0);
    PC_UNROLL for (int r = 0; r < R; ++r)
      PC_UNROLL for (int v = 0; v < NV; ++v) {
        float* sum = total + r * NR + v * VL;
        vf value = vf_add(vf_load(sum), vf_mul(vf_from_vi(acc[r][v]), vf_load(scale + v * VL)));
        pin(value);
        vf_store(sum, value);
      }
  }
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < NV; ++v) finish(t, r, v, vf_load(total + r * NR + v * VL));
}

}  // namespace

extern const GemmS4Kernel gemm_s4;
constexpr GemmS4Kernel gemm_s4 = make<MR, 4>();

}  // namespace PC_NS
}  // namespace pc
