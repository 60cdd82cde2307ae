// What the int4 kernels of all vector ISAs share: the expansion of a panel, the group sums of x, the last step.
//
// A panel as packed, for each group of k: float scale[NR], int16 or int32 sum[NR] of the values, then chunks of 32 k. A chunk is [4][NR][4] bytes;
// byte i of lane n in row j holds w[n][8 * j + i] + 8 in its low half and w[n][8 * j + 4 + i] + 8 in the high one, so a vector of bytes becomes two
// vectors of quads by 3 instructions. Expanded, for each group: float scale[NR], int32 sum[NR] (as vi_parts), then chunks of int8 [8][NR][4].
#pragma once

#include "gemm/gemm.h"
#include "gemm/lanes.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int NV = 2;
constexpr int NR = NV * VL;
constexpr int CHUNK = (int)kS4Chunk;
constexpr int PACKED_CHUNK = CHUNK / 2 * NR, EXPANDED_CHUNK = CHUNK * NR;

PC_INLINE vi load(const void* p) { return vi_load((const int32_t*)p); }
PC_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The sums of a group, as vi_parts.
PC_INLINE vi sum_parts(const char* p, int64_t sum_bytes, int v) {
  return sum_bytes == 2 ? vi_load_u16((const uint16_t*)p + v * VL) : vi_parts(load(p + v * VL * 4));
}

void expand(const char* panel, int64_t chunks, int64_t group_chunks, char* out) {
  const vi eight = vi_set1_8(8);
  const int64_t sum_bytes = s4_sum_bytes(group_chunks);
  for (int64_t left = chunks; left > 0; left -= group_chunks) {
    memcpy(out, panel, NR * 4);
  PC_UNROLL for (int v = 0; v < NV; ++v) vi_store((int32_t*)(out + NR * 4) + v * VL, sum_parts(panel + NR * 4, sum_bytes, v));
    panel += NR * (4 + sum_bytes);
    out += NR * 8;
    for (int64_t c = least(left, group_chunks); c > 0; --c) {
      PC_UNROLL for (int v = 0; v < NV; ++v)
        PC_UNROLL for (int j = 0; j < 4; ++j) {
          const vi both = load(panel + (j * NV + v) * VL * 4);
          vi_store((int32_t*)(out + (2 * j * NV + v) * VL * 4), vi_sub_8(vi_low_nibbles(both), eight));
          vi_store((int32_t*)(out + ((2 * j + 1) * NV + v) * VL * 4), vi_sub_8(vi_high_nibbles(both), eight));
        }
      panel += PACKED_CHUNK;
      out += EXPANDED_CHUNK;
    }
  }
}

// -zero_point, and 128 times that: with vi_parts(sum) the product of zero point and sum, negated.
PC_INLINE int32_t zero_point_parts(int32_t zero_point) { return (int32_t)((uint32_t)-zero_point & 0xffffu) | (int32_t)((uint32_t)(-zero_point * 128) << 16); }

// One vector of the result, from the sum over the groups.
PC_INLINE void finish(const S4Tile& t, int r, int v, vf sum) {
  const int n = lanes_of(t.columns, v);
  vf value = vf_mul(sum, vf_set1(t.x_scale[r]));
  if (t.bias) value = vf_add(value, vf_load(t.bias + v * VL));
  value = vf_min(vf_set1(t.high), vf_max(vf_set1(t.low), value));
  float* y = t.y + r * t.ldy + v * VL;
  if (n == VL)
    vf_store(y, value);
  else
    vf_storen(y, value, n);
}

// For up to 4 rows: the panel is read as it is packed, its halves u = w + 8 multiplied as they are, and of each group taken off what the 8 adds:
// sum of x * u, less 8 * sum of x, less the zero point times sum of w. What is bound by memory then reads half a byte for each weight. x is less 128
// here, and so is its zero point: the products are of unsigned u by signed x. multiply() adds those of up to kFewChunks chunks to acc.
template <int R> PC_INLINE void multiply(const uint8_t* x, ptrdiff_t ldx, const char* w, int64_t chunks, vi (&acc)[R][NV]);
constexpr int64_t kFewChunks = 2048;  // 65536 k: 16 * 15 * 128 for half of them is within int32
constexpr int FEW_AHEAD = 8192;  // bytes prefetched before they are multiplied

void prepare_few(uint8_t* x, int64_t chunks, int64_t group_chunks, int32_t* out) {
  for (int64_t left = chunks; left > 0; left -= group_chunks) {
    int32_t sum = 0;
    for (int64_t c = least(left, group_chunks); c > 0; --c, x += CHUNK)
      for (int i = 0; i < CHUNK; ++i) {
        sum += x[i] - 128;
        x[i] ^= 128;  // as int8: less 128
      }
    *out++ = -8 * sum;
  }
}

template <int R> void few(const S4Tile& t) {
  vf total[R][NV];
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < NV; ++v) total[r][v] = vf_zero();
  const uint8_t* x = t.x;
  const char* w = t.w;
  const int32_t* x_sum = t.x_sum;
  const int64_t sum_bytes = s4_sum_bytes(t.group_chunks);
  int32_t zero_point[R];
  PC_UNROLL for (int r = 0; r < R; ++r) zero_point[r] = zero_point_parts(t.x_zero_point[r] - 128);
  for (int64_t left = t.chunks; left > 0; left -= t.group_chunks) {
    const float* scale = (const float*)w;
    vi acc[R][NV];
    PC_UNROLL for (int v = 0; v < NV; ++v) {
      const vi sum = sum_parts(w + NR * 4, sum_bytes, v);
      PC_UNROLL for (int r = 0; r < R; ++r) acc[r][v] = vi_add(vi_set1(x_sum[r * t.ld_sum]), vi_madd_16(vi_set1(zero_point[r]), sum));
    }
    ++x_sum;
    w += NR * (4 + sum_bytes);
    for (int64_t group = least(left, t.group_chunks); group > 0; group -= kFewChunks) {
      const int64_t chunks = least(group, kFewChunks);
      multiply<R>(x, t.ldx, w, chunks, acc);
      x += CHUNK * chunks;
      w += PACKED_CHUNK * chunks;
    }
    PC_UNROLL for (int v = 0; v < NV; ++v)
      PC_UNROLL for (int r = 0; r < R; ++r)
        total[r][v] = vf_add(total[r][v], vf_mul(vf_from_vi(acc[r][v]), vf_load(scale + v * VL)));
  }
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < NV; ++v) finish(t, r, v, total[r][v]);
}

template <int R> void tile(const S4Tile& t);

template <int R> constexpr void fill_tiles(S4TileFunction* by_rows) {
  by_rows[R - 1] = tile<R>;
  if constexpr (R > 1) fill_tiles<R - 1>(by_rows);
}
template <int R> constexpr void fill_few(S4TileFunction* by_rows) {
  by_rows[R - 1] = few<R>;
  if constexpr (R > 1) fill_few<R - 1>(by_rows);
}

template <int MR, int FEW> constexpr GemmS4Kernel make() {
  GemmS4Kernel kernel{"gemm_s4/" PC_ISA_NAME, MR, NR, FEW, {}, {}, expand, prepare_few};
  fill_few<FEW>(kernel.few);
  fill_tiles<MR>(kernel.tile);
  return kernel;
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
