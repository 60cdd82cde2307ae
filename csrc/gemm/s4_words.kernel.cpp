// int4 GEMM by vpmaddubsw: neighbours of x times int4 add up to at most 255 * 8 * 2 = 4080, so 8 such sums fit in 16 bits: a chunk of 32 k is
// widened to 32 bits once, by one vpmaddwd, where int8 needs one for each vpmaddubsw.
//
// Tile over an expanded panel: AVX2 6 x 16, 12 accumulators of 16 bits. Bound, for a chunk of 32 k: 8 vpmaddubsw and a vpmaddwd, with 7 vpaddw; for
// each group another vpmaddwd, a conversion, a multiplication and an addition.
#include "gemm/s4.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int MR = 6;

PC_INLINE vi madd_8(vi x, vi w) { return _mm256_maddubs_epi16(x, w); }
PC_INLINE vi add_16(vi a, vi b) { return _mm256_add_epi16(a, b); }
PC_INLINE vi widen(vi words) { return vi_madd_16(words, _mm256_set1_epi16(1)); }

// Neighbours of u by x less 128 add up to at most 15 * 128 * 2 = 3840, and 8 of these fit as well.
template <int R> PC_INLINE void multiply(const uint8_t* x, ptrdiff_t ldx, const char* w, int64_t chunks, vi (&acc)[R][NV]) {
  do {
  PC_UNROLL for (int i = 0; i < PACKED_CHUNK; i += 64) prefetch(w + FEW_AHEAD + i);
    PC_UNROLL for (int v = 0; v < NV; ++v) {
      vi words[R];
      PC_UNROLL for (int j = 0; j < 4; ++j) {
        const vi both = load(w + (j * NV + v) * VL * 4);
        const vi low = vi_low_nibbles(both), high = vi_high_nibbles(both);
        PC_UNROLL for (int r = 0; r < R; ++r) {
          const vi a = madd_8(low, vi_broadcast_quad(x + r * ldx + 8 * j)), b = madd_8(high, vi_broadcast_quad(x + r * ldx + 8 * j + 4));
          words[r] = j == 0 ? add_16(a, b) : add_16(add_16(words[r], a), b);
          pin(words[r]);
        }
      }
      PC_UNROLL for (int r = 0; r < R; ++r) acc[r][v] = vi_add(acc[r][v], widen(words[r]));
    }
    x += CHUNK;
    w += PACKED_CHUNK;
  } while (--chunks > 0);
}

template <int R> void tile(const S4Tile& t) {
  alignas(64) float totals[R * NR];
  alignas(64) int32_t group_sums[R * NR];
  int32_t zero_points[R];
  PC_UNROLL for (int r = 0; r < R; ++r) {
    zero_points[r] = zero_point_parts(t.x_zero_point[r]);
    PC_UNROLL for (int v = 0; v < NV; ++v) vf_store(totals + r * NR + v * VL, vf_zero());
  }
  float* total = totals;  // [R][NR]
  int32_t* sums = group_sums;
  const int32_t* zero_point = zero_points;
  const ptrdiff_t ld1 = t.ldx, ld3 = 3 * t.ldx;
  const uint8_t* x0 = t.x;
  const uint8_t* x4 = R > 4 ? x0 + 4 * ld1 : x0;
  const char* w = t.w;
  for (int64_t left = t.chunks; left > 0; left -= t.group_chunks) {
    keep_in_memory(total);
    keep_in_memory(zero_point);
    const char* group = w;
    PC_UNROLL for (int r = 0; r < R; ++r)
      PC_UNROLL for (int v = 0; v < NV; ++v)
        vi_store(sums + r * NR + v * VL, vi_madd_16(vi_set1(zero_point[r]), load(group + NR * 4 + v * VL * 4)));
    w += NR * 8;
    const int64_t chunks = least(left, t.group_chunks);
    for (int64_t c = 0; c < chunks; ++c) {
      vi acc[R][NV];
      PC_UNROLL for (int s = 0; s < CHUNK / 4; ++s) {
        vi b[NV];
        PC_UNROLL for (int v = 0; v < NV; ++v) b[v] = load(w + (s * NV + v) * VL * 4);
        PC_UNROLL for (int r = 0; r < R; ++r) {
          const uint8_t* x = (r < 4 ? x0 : x4) + 4 * s;
          const int q = r % 4;
          const vi a = vi_broadcast_quad(q == 0 ? x : q == 1 ? x + ld1 : q == 2 ? x + 2 * ld1 : x + ld3);
          PC_UNROLL for (int v = 0; v < NV; ++v) {
            acc[r][v] = s == 0 ? madd_8(a, b[v]) : add_16(acc[r][v], madd_8(a, b[v]));
            pin(acc[r][v]);
          }
        }
      }
      w += EXPANDED_CHUNK;
      x0 += CHUNK;
      x4 += CHUNK;
      PC_UNROLL for (int r = 0; r < R; ++r)
        PC_UNROLL for (int v = 0; v < NV; ++v) {
          const vi after = vi_add(vi_load(sums + r * NR + v * VL), widen(acc[r][v]));
          float* sum = total + r * NR + v * VL;
          if (c + 1 < chunks) {
            vi_store(sums + r * NR + v * VL, after);
          } else {
            vf value = vf_add(vf_load(sum), vf_mul(vf_from_vi(after), vf_load((const float*)group + v * VL)));
            pin(value);
            vf_store(sum, value);
          }
        }
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
