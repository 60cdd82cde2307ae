// A chunk of outputs by a few rows of x: shared by float32 and int8. The lanes are the 16 outputs of a group, so the dwords of x are gathered. Rows
// are taken one after the other, with the weights of the chunk from L2.
//
// AVX-512 has a block's 128 positions in 8 registers and looks 16 up at once. Elsewhere single loads, joined by vpinsrd: on Zen 3 half the time of
// vpgatherdd, and a tenth less than broadcasts and blends. Positions are bytes, so that whatever they are, the reads stay within 1 KiB of the
// block.
#pragma once

#include "sparse/panel.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int AHEAD = 16;  // steps
constexpr int POSITIONS = VL == 16 ? kSparseBlock : kSparseLongBlock;

#if defined(PC_ISA_SCALAR) || defined(PC_SIMDE)
// Lane l of vector v: x[position[(v * VL + l) / R]].
template <int R> PC_INLINE vi gathered(const int32_t* x, const uint8_t* position, int v) {
  int32_t lanes[VL];
  for (int l = 0; l < VL; ++l) lanes[l] = x[position[(v * VL + l) / R]];
  return vi_load(lanes);
}
template <int R> PC_INLINE vi load_sums(const int32_t* sum, const uint8_t* output, int v) { return gathered<1>(sum, output, v); }
template <int R> PC_INLINE void store_sums(int32_t* sum, const uint8_t* output, int v, vi x) {
  int32_t lanes[VL];
  vi_store(lanes, x);
  for (int l = 0; l < VL; ++l) sum[output[v * VL + l]] = lanes[l];
}
template <int R> PC_INLINE void add_sums(int32_t* sum, const uint8_t* output, int v, vi x) {
  int32_t lanes[VL];
  vi_store(lanes, x);
  for (int l = 0; l < VL; ++l) sum[output[v * VL + l]] = (int32_t)((uint32_t)sum[output[v * VL + l]] + (uint32_t)lanes[l]);
}
#else
// The next 4 positions. The shifts one after the other need no copies.
PC_INLINE __m128i next_four(const int32_t* x, uint64_t& p) {
  int32_t lane[4];
  PC_UNROLL for (int i = 0; i < 4; i += 2) {
#if defined(__GNUC__)
    __asm__ volatile("" : "+Q"(p));
#endif
    lane[i] = x[p & 0xff];
    lane[i + 1] = x[p >> 8 & 0xff];
    p >>= 16;
  }
  return _mm_insert_epi32(_mm_insert_epi32(_mm_insert_epi32(_mm_cvtsi32_si128(lane[0]), lane[1], 1), lane[2], 2), lane[3], 3);
}
// One load brings 8 positions.
PC_INLINE __m256i eight(const int32_t* x, const uint8_t* position) {
  uint64_t p;
  memcpy(&p, position, 8);
  const __m128i low = next_four(x, p);
  return _mm256_setr_m128i(low, next_four(x, p));
}
PC_INLINE __m128i four(const int32_t* p) { return _mm_loadu_si128((const __m128i*)p); }
template <int R> PC_INLINE void store_sums(int32_t* sum, const uint8_t* output, int v, vi x) {
  int32_t lanes[VL];
  vi_store(lanes, x);
  for (int l = 0; l < VL; l += R) memcpy(sum + output[v * VL + l], lanes + l, 4 * R);
}
// Of integers, in any order: cheaper than to begin with the sums.
template <int R> PC_INLINE void add_sums(int32_t* sum, const uint8_t* output, int v, vi x) {
  int32_t lanes[VL];
  vi_store(lanes, x);
  if (R == 1)
    for (int l = 0; l < VL; ++l) sum[output[v * VL + l]] = (int32_t)((uint32_t)sum[output[v * VL + l]] + (uint32_t)lanes[l]);
  else
    for (int l = 0; l < VL; l += 4) {
      int32_t* at = sum + output[v * VL + l];
      _mm_storeu_si128((__m128i*)at, _mm_add_epi32(four(at), four(lanes + l)));
    }
}
#if defined(PC_ISA_AVX512VNNI)
PC_INLINE vi by_fours() { return _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3); }

template <int R> PC_INLINE vi load_sums(const int32_t* sum, const uint8_t* o, int) {
  if (R == 1) return _mm512_inserti64x4(_mm512_castsi256_si512(eight(sum, o)), eight(sum, o + 8), 1);
  const __m256i low = _mm256_setr_m128i(four(sum + o[0]), four(sum + o[4])), high = _mm256_setr_m128i(four(sum + o[8]), four(sum + o[12]));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// A row of a block in registers. Position 128 is zero, which float32 fills up with.
template <bool Zero> struct Table {
  vi t[8];
  explicit PC_INLINE_MEMBER Table(const int32_t* x) {
    PC_UNROLL for (int i = 0; i < 8; ++i) t[i] = vi_load(x + i * VL);
  }
  template <int R> PC_INLINE_MEMBER vi gathered(const uint8_t* p, int) const {
    int32_t fours;
    memcpy(&fours, p, 4);
    const __m128i bytes = R == 1 ? _mm_loadu_si128((const __m128i*)p) : _mm_cvtsi32_si128(fours);
    vi i = _mm512_cvtepu8_epi32(bytes);
    if (R > 1) i = _mm512_permutexvar_epi32(by_fours(), i);
    const __mmask16 bit5 = _mm512_test_epi32_mask(i, vi_set1(32)), bit6 = _mm512_test_epi32_mask(i, vi_set1(64));
    const vi low = _mm512_mask_blend_epi32(bit5, _mm512_permutex2var_epi32(t[0], i, t[1]), _mm512_permutex2var_epi32(t[2], i, t[3]));
    const vi high = _mm512_mask_blend_epi32(bit5, _mm512_permutex2var_epi32(t[4], i, t[5]), _mm512_permutex2var_epi32(t[6], i, t[7]));
    const vi x = _mm512_mask_blend_epi32(bit6, low, high);
    return Zero ? _mm512_maskz_mov_epi32(_mm512_testn_epi32_mask(i, vi_set1(128)), x) : x;
  }
};
#else
template <int R> PC_INLINE vi gathered(const int32_t* x, const uint8_t* position, int v) {
  position += v * VL / R;
  if (R > 1) return _mm256_setr_m128i(_mm_set1_epi32(x[position[0]]), _mm_set1_epi32(x[position[1]]));
  return eight(x, position);
}
template <int R> PC_INLINE vi load_sums(const int32_t* sum, const uint8_t* output, int v) {
  output += v * VL;
  return R == 1 ? eight(sum, output) : _mm256_setr_m128i(four(sum + output[0]), four(sum + output[4]));
}
#endif
#endif

#if !defined(PC_ISA_AVX512VNNI) || defined(PC_SIMDE)
template <bool Zero> struct Table {
  const int32_t* x;
  explicit PC_INLINE_MEMBER Table(const int32_t* block) : x(block) {}
  template <int R> PC_INLINE_MEMBER vi gathered(const uint8_t* p, int v) const { return PC_NS::gathered<R>(x, p, v); }
};
#endif

// Floats are added in order, so that a group begins with the sums so far.
struct FloatSums {
  template <int R> static PC_INLINE_MEMBER vf begin(const int32_t* sum, const uint8_t* o, int v) { return vf_bits(load_sums<R>(sum, o, v)); }
  template <int R> static PC_INLINE_MEMBER void end(int32_t* sum, const uint8_t* o, int v, vf x) { store_sums<R>(sum, o, v, vi_bits(x)); }
};
struct IntSums {
  template <int R> static PC_INLINE_MEMBER vi begin(const int32_t*, const uint8_t*, int) { return vi_zero(); }
  template <int R> static PC_INLINE_MEMBER void end(int32_t* sum, const uint8_t* o, int v, vi x) { add_sums<R>(sum, o, v, x); }
};

template <class Op, class Sums, int R> void few(const SparseFew& f) {
  typedef typename Op::Vector V;
  constexpr int NV = G / VL;
  for (int r = 0; r < f.rows; ++r) {
    const char* x = f.x + r * f.row_bytes;
    int32_t* sum = f.sum + r * kSparseSums;
    const SparseEntry* entry = f.table;
    for (int64_t b = 0; b < f.blocks; ++b, x += f.block_bytes) {
      const Table<Op::kFillsUp> table((const int32_t*)x);
      for (int g = 0; g < f.groups; ++g, ++entry) {
        if (entry->steps == 0) continue;
        const uint32_t* value = f.value + (int64_t)entry->begin * G;
        const uint8_t* position = f.position + (int64_t)entry->begin * (G / R);
        V acc[NV];
  PC_UNROLL for (int v = 0; v < NV; ++v) acc[v] = Sums::template begin<R>(sum, entry->output, v);
        for (uint32_t s = entry->steps; s > 0; --s) {
          PC_UNROLL for (int v = 0; v < NV; ++v)
            acc[v] = Op::multiply(acc[v], Op::rows(table.template gathered<R>(position, v)), load_sum((const int32_t*)value + v * VL, V()));
          prefetch(value + AHEAD * G);
          value += G;
          position += G / R;
        }
        PC_UNROLL for (int v = 0; v < NV; ++v) Sums::template end<R>(sum, entry->output, v, acc[v]);
      }
    }
  }
}

}  // namespace
}  // namespace PC_NS
}  // namespace pc
