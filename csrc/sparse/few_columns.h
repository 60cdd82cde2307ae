// Columns of int8 by a few rows of x: 4 bytes of a row, from anywhere in a block of 256, are put together to the dword that an output (or 4
// outputs) multiplies.
//
// With AVX-512 VBMI the block is in 4 registers, and vpermi2b looks 64 bytes up at once; up to 4 rows share the positions and weights. Bound: 3
// or 4 shuffles for 64 products.
// AVX2 looks 32 bytes up in 16 tables of 16 bytes by vpshufb, and chooses by the upper bits. Bound: these 31 instructions, of which 2 run in a cycle;
// single loads, at best 2.1 a byte with its position, take 1.4 times as long.
// Elsewhere each byte of x is a dword in memory, x 0 0 0: read 1, 2 or 3 bytes before it, it comes out shifted, so that a dword is 4 loads joined by
// "or". They are stored one piece ahead of the products, for a load waits long for stores that are narrower and younger.
#pragma once

#include "sparse/dot.h"
#include "sparse/few.h"

namespace pc {
namespace PC_NS {
namespace {

#if !defined(PC_ISA_SCALAR) && !defined(PC_ISA_AVX512VNNI)
// 32 bytes of the 256 from x on.
PC_INLINE __m256i look_up(const char* x, __m256i i) {
  const __m256i low = _mm256_and_si256(i, _mm256_set1_epi8(15));
  // A blend goes by the upper bit of a byte.
  const __m256i bit4 = _mm256_slli_epi16(i, 3), bit5 = _mm256_slli_epi16(i, 2), bit6 = _mm256_slli_epi16(i, 1);
  const auto table = [x, low](int t) __attribute__((always_inline)) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(four((const int32_t*)(x + 16 * t))), low);
  };
  const auto of32 = [&](int t) __attribute__((always_inline)) { return _mm256_blendv_epi8(table(t), table(t + 1), bit4); };
  const auto of64 = [&](int t) __attribute__((always_inline)) { return _mm256_blendv_epi8(of32(t), of32(t + 2), bit5); };
  const auto of128 = [&](int t) __attribute__((always_inline)) { return _mm256_blendv_epi8(of64(t), of64(t + 4), bit6); };
  return _mm256_blendv_epi8(of128(0), of128(8), i);
}

PC_INLINE vi weights(const uint32_t* value, int v) { return vi_load((const int32_t*)value + v * VL); }

// R > 1: the quads of 2 steps are looked up together.
template <int R> PC_INLINE void shuffled_group(const char* x, const uint32_t* value, const uint8_t* position, uint32_t steps, vi (&acc)[2]) {
  constexpr int AT_ONCE = R == 1 ? 1 : 2;
  for (; steps >= AT_ONCE; steps -= AT_ONCE) {
    const __m256i* p = (const __m256i*)position;
    if (R == 1) {
  PC_UNROLL for (int v = 0; v < 2; ++v) acc[v] = dot4(acc[v], look_up(x, _mm256_loadu_si256(p + v)), weights(value, v));
    } else {
      const vi quad = look_up(x, _mm256_loadu_si256(p));
      PC_UNROLL for (int v = 0; v < 4; ++v) {
        const vi fours = _mm256_permutevar8x32_epi32(quad, _mm256_setr_epi32(2 * v, 2 * v, 2 * v, 2 * v, 2 * v + 1, 2 * v + 1, 2 * v + 1, 2 * v + 1));
        acc[v % 2] = dot4(acc[v % 2], fours, weights(value, v));
      }
    }
    prefetch(value + AHEAD * G);
    value += AT_ONCE * G;
    position += R == 1 ? 64 : 32;
  }
  if (R > 1 && steps > 0) {
    const vi quad = look_up(x, _mm256_castsi128_si256(four((const int32_t*)position)));
    acc[0] = dot4(acc[0], _mm256_permutevar8x32_epi32(quad, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)), weights(value, 0));
    acc[1] = dot4(acc[1], _mm256_permutevar8x32_epi32(quad, _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3)), weights(value, 1));
  }
}

template <int R> void few_columns(const SparseFew& f) {
  for (int r = 0; r < f.rows; ++r) {
    const char* x = f.x + r * f.row_bytes;
    int32_t* sum = f.sum + r * kSparseSums;
    const SparseEntry* entry = f.table;
    for (int64_t b = 0; b < f.blocks; ++b, x += f.block_bytes)
      for (int g = 0; g < f.groups; ++g, ++entry) {
        if (entry->steps == 0) continue;
        vi acc[2] = {vi_zero(), vi_zero()};
        shuffled_group<R>(x, f.value + (int64_t)entry->begin * G, f.position + (int64_t)entry->begin * (4 * G / R), entry->steps, acc);
        PC_UNROLL for (int v = 0; v < 2; ++v) add_sums<R>(sum, entry->output, v, acc[v]);
      }
  }
}

constexpr SparseFewKernel FEW_COLUMNS = {{few_columns<1>, few_columns<kSparseShared>}, {2, 2}, 1, kSparseBlockOfColumns};
#else
PC_INLINE uint32_t dword(const char* p) {
  uint32_t x;
  memcpy(&x, p, 4);
  return x;
}

struct Piece {
  const SparseEntry* entry;
  const uint32_t* value;
  uint32_t steps;
  static constexpr uint32_t kMost = 32;
};

// The next 2 of 8 positions. The shifts one after the other need no copies, and keep the compiler from vpgatherdd.
PC_INLINE uint32_t two(const char* x, uint64_t& p, int shift) {
#if defined(__x86_64__) && defined(__GNUC__)
  __asm__ volatile("" : "+Q"(p));
#endif
  const uint32_t bytes = dword(x + 4 * (p & 0xff) - shift) | dword(x + 4 * (p >> 8 & 0xff) - shift - 1);
  p >>= 16;
  return bytes;
}

PC_INLINE void put_together(const char* x, const uint8_t* position, uint32_t count, uint32_t* quad) {
  for (uint32_t i = 0; i < count; i += 2) {
    uint64_t p;
    memcpy(&p, position + 4 * i, 8);
    const uint32_t low = two(x, p, 0);
    quad[i] = low | two(x, p, 2);
    const uint32_t high = two(x, p, 0);
    quad[i + 1] = high | two(x, p, 2);
  }
}

template <int R> PC_INLINE vi quads_of(const uint32_t* quad, int v) {
  if (R == 1) return vi_load((const int32_t*)quad + v * VL);
#if defined(PC_ISA_SCALAR) || defined(PC_SIMDE)
  int32_t lanes[VL];
  for (int l = 0; l < VL; ++l) lanes[l] = (int32_t)quad[(v * VL + l) / R];
  return vi_load(lanes);
#else
  return _mm512_permutexvar_epi32(by_fours(), _mm512_castsi128_si512(four((const int32_t*)quad)));
#endif
}

template <int R> PC_INLINE void multiply_piece(const Piece& p, const uint32_t* quad, int32_t* sum) {
  constexpr int NV = G / VL;
  vi acc[NV];
  PC_UNROLL for (int v = 0; v < NV; ++v) acc[v] = vi_zero();
  const uint32_t* value = p.value;
  for (uint32_t s = 0; s < p.steps; ++s) {
    PC_UNROLL for (int v = 0; v < NV; ++v) acc[v] = Dot::multiply(acc[v], quads_of<R>(quad, v), vi_load((const int32_t*)value + v * VL));
    value += G;
    quad += G / R;
  }
  PC_UNROLL for (int v = 0; v < NV; ++v) add_sums<R>(sum, p.entry->output, v, acc[v]);
}

template <int R> void few_columns(const SparseFew& f) {
  uint32_t quad[2][Piece::kMost * G / R];
  for (int r = 0; r < f.rows; ++r) {
    int32_t* sum = f.sum + r * kSparseSums;
    const char* x = f.x + r * f.row_bytes;
    Piece last{f.table, f.value, 0};
    int turn = 0;
    const SparseEntry* entry = f.table;
    for (int64_t b = 0; b < f.blocks; ++b, x += f.block_bytes)
      for (int g = 0; g < f.groups; ++g, ++entry)
        for (uint32_t s = 0; s < entry->steps; s += Piece::kMost) {
          const int64_t begin = (int64_t)entry->begin + s;
          const Piece piece = {entry, f.value + begin * G, entry->steps - s < Piece::kMost ? entry->steps - s : Piece::kMost};
          prefetch(piece.value);
          put_together(x, f.position + begin * (4 * G / R), piece.steps * (G / R), quad[turn]);
          turn ^= 1;
          multiply_piece<R>(last, quad[turn], sum);
          last = piece;
        }
    multiply_piece<R>(last, quad[turn ^ 1], sum);
  }
}

constexpr SparseFewKernel FEW_COLUMNS = {{few_columns<1>, few_columns<kSparseShared>}, {2, 4}, 4, kSparseBlockOfColumns};
#endif

#if defined(PC_ISA_AVX512VNNI) && !defined(PC_SIMDE) && defined(__GNUC__)
#define PC_VBMI __attribute__((target("avx512vbmi")))

// N rows at a time.
template <int R, int N> PC_VBMI void rows_vbmi(const SparseFew& f, int r) {
  const char* x = f.x + r * f.row_bytes;
  int32_t* sum = f.sum + r * kSparseSums;
  const SparseEntry* entry = f.table;
  for (int64_t b = 0; b < f.blocks; ++b, x += f.block_bytes) {
    vi t[N][4];
    PC_UNROLL for (int n = 0; n < N; ++n)
      PC_UNROLL for (int i = 0; i < 4; ++i) t[n][i] = vi_load((const int32_t*)(x + n * f.row_bytes) + i * VL);
    for (int g = 0; g < f.groups; ++g, ++entry) {
      if (entry->steps == 0) continue;
      const uint32_t* value = f.value + (int64_t)entry->begin * G;
      const uint8_t* position = f.position + (int64_t)entry->begin * (4 * G / R);
      vi acc[N];
      PC_UNROLL for (int n = 0; n < N; ++n) acc[n] = vi_zero();
      for (uint32_t s = entry->steps; s > 0; --s) {
        vi i;
        if (R == 1)
          i = vi_load((const int32_t*)position);
        else
          i = _mm512_permutexvar_epi32(by_fours(), _mm512_castsi128_si512(four((const int32_t*)position)));
        const __mmask64 upper = _mm512_movepi8_mask(i);
        const vi w = vi_load((const int32_t*)value);
        PC_UNROLL for (int n = 0; n < N; ++n) {
          const vi low = _mm512_permutex2var_epi8(t[n][0], i, t[n][1]), high = _mm512_permutex2var_epi8(t[n][2], i, t[n][3]);
          acc[n] = dot4(acc[n], _mm512_mask_blend_epi8(upper, low, high), w);
        }
        prefetch(value + AHEAD * G);
        value += G;
        position += 4 * G / R;
      }
      PC_UNROLL for (int n = 0; n < N; ++n) add_sums<R>(sum + n * kSparseSums, entry->output, 0, acc[n]);
    }
  }
}

template <int R> void few_columns_vbmi(const SparseFew& f) {
  int r = 0;
  for (; f.rows - r >= 4; r += 4) rows_vbmi<R, 4>(f, r);
  if (f.rows - r >= 2) {
    rows_vbmi<R, 2>(f, r);
    r += 2;
  }
  if (f.rows - r >= 1) rows_vbmi<R, 1>(f, r);
}

constexpr SparseFewKernel VBMI = {{few_columns_vbmi<1>, few_columns_vbmi<kSparseShared>}, {16, 16}, 1, kSparseBlockOfColumns};
#else
constexpr SparseFewKernel VBMI = {{nullptr, nullptr}, {0, 0}, 1, 0};
#endif

}  // namespace
}  // namespace PC_NS
}  // namespace pc
