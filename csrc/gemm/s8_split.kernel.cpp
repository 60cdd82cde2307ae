// int8 GEMM by vpmaddubsw, made exact. It multiplies 4 values of k in a lane where vpmaddwd takes 2, but adds neighbours in 16 bits, saturating:
// 255 * (w0 + w1) leaves int16 when w0 and w1 have one sign and together exceed 128. Weights are known when they are packed, and few pairs of
// trained ones do (0.3 to 2.5 % in a sentence encoder). Of these w1 is cut down to what is safe, and what is cut off goes into a sparse
// rest, output by output. Its products are the tile's start.
//
// Tile: 6 x 16, as in s8_quads.h. Bound: vpmaddubsw and vpmaddwd for 32 MACs, both on the multipliers, and vpaddd beside them.
// Rest: 16 rows of x at a time are transposed once, for all panels; then 4 entries of an output by 8 rows are one vpmaddubsw and vpmaddwd, with
// what is cut off arranged so that no pair of it saturates.
#include "gemm/s8_quads.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int ROWS = 16;  // that a vector of bytes holds
constexpr int NR = NV * VL;
constexpr int QUADS_AHEAD = 12;  // whose columns are prefetched: they lie anywhere in L2

// out[j * ldo + i] = row i, byte j, of up to ROWS rows. Rows that do not exist are copies of the last.
void transpose_group(const uint8_t* rows, ptrdiff_t ld, int64_t count, int64_t k, uint8_t* out, int64_t ldo) {
  const uint8_t* x[ROWS];
  for (int i = 0; i < ROWS; ++i) x[i] = rows + (i < count ? i : count - 1) * ld;
  int64_t j = 0;
  for (; j + 16 <= k; j += 16) {
    __m128i a[16], b[16];
  PC_UNROLL for (int i = 0; i < 16; ++i) a[i] = _mm_loadu_si128((const __m128i*)(x[i] + j));
    // Four times: interleave i and i + 8. Each doubles the run of rows that belong to one column.
    PC_UNROLL for (int step = 0; step < 4; ++step) {
      PC_UNROLL for (int i = 0; i < 8; ++i) {
        b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
        b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
      }
      PC_UNROLL for (int i = 0; i < 16; ++i) a[i] = b[i];
    }
    PC_UNROLL for (int i = 0; i < 16; ++i) _mm_store_si128((__m128i*)(out + (j + i) * ldo), a[i]);
  }
  for (; j < k; ++j)
    for (int i = 0; i < ROWS; ++i) out[j * ldo + i] = x[i][j];
}

void transpose_rows(const void* x, ptrdiff_t ldx, int64_t rows, int64_t k, uint8_t* out) {
  const int64_t together = transposed_together(rows);
  for (int64_t r = 0; r < rows; r += ROWS)
    transpose_group((const uint8_t*)x + r * ldx, ldx, rows - r, k, out + r / together * together * k + r % together, together);
}

// The columns of a quad, 16 bits each, held below k, whatever a damaged file says; and one of them.
PC_INLINE uint64_t columns(const S8Rest& t, const S8RestQuad& quad) {
  return (uint64_t)_mm_cvtsi128_si64(_mm_min_epu16(_mm_loadl_epi64((const __m128i*)quad.column), _mm_set1_epi16((int16_t)(t.k - 1))));
}
PC_INLINE int64_t column(uint64_t columns, int j) { return columns >> 16 * j & 0xffff; }
PC_INLINE vi load(const void* p) { return vi_load((const int32_t*)p); }
PC_INLINE int output(const S8RestQuad& quad) { return quad.output % NR; }

// A panel by G groups of ROWS transposed rows from row r on; H: of which half is enough. A quad of entries by 4 rows (of two groups: 8) is a vector:
// their bytes are interleaved, multiplied and added as in a tile. Where the next output begins no CPU can foresee, so each quad stores its sum,
// and the last of an output stays. Rows that do not exist are computed from whatever lies there, and looked at by nobody.
template <int G, bool H> void rest_of_rows(const S8Rest& t, int64_t r) {
  constexpr int B = (G + 1) / 2, Q = H ? 2 : 4;
  const int shift = __builtin_ctzll((uint64_t)transposed_together(t.rows));  // 8 multiplications a quad would take as long as all else
  const uint8_t* x = t.transposed + r * t.k;
  vi sums[NR][B][Q], acc[B][Q];
  for (int i = 0; i < NR; ++i)
    PC_UNROLL for (int b = 0; b < B; ++b)
      PC_UNROLL for (int q = 0; q < Q; ++q) sums[i][b][q] = vi_zero();
  PC_UNROLL for (int b = 0; b < B; ++b)
    PC_UNROLL for (int q = 0; q < Q; ++q) acc[b][q] = vi_zero();
  for (const S8RestQuad* quad = t.begin; quad < t.end; ++quad) {
    const S8RestQuad* ahead = quad + (t.end - quad > QUADS_AHEAD ? QUADS_AHEAD : 0);
    PC_UNROLL for (int j = 0; G > 2 && j < 4; ++j) prefetch(x + ((int64_t)ahead->column[j] << shift));
    const uint64_t all = columns(t, *quad);
    const uint8_t* at[4];
    PC_UNROLL for (int j = 0; j < 4; ++j) at[j] = x + (column(all, j) << shift);
    const vi w = vi_broadcast_quad((const uint8_t*)quad->value), keep = _mm256_set1_epi16((int16_t)quad->keep);
    vi(&sum)[B][Q] = sums[output(*quad)];
    PC_UNROLL for (int b = 0; b < B; ++b) {
      vi a[4], bytes[4];
      PC_UNROLL for (int j = 0; j < 4; ++j) a[j] = G > 1 ? load(at[j] + b * 2 * ROWS) : _mm256_castsi128_si256(_mm_load_si128((const __m128i*)at[j]));
      PC_UNROLL for (int h = 0; h < Q / 2; ++h) {
        const vi front = h ? _mm256_unpackhi_epi8(a[0], a[1]) : _mm256_unpacklo_epi8(a[0], a[1]);
        const vi back = h ? _mm256_unpackhi_epi8(a[2], a[3]) : _mm256_unpacklo_epi8(a[2], a[3]);
        bytes[2 * h] = _mm256_unpacklo_epi16(front, back);
        bytes[2 * h + 1] = _mm256_unpackhi_epi16(front, back);
      }
      PC_UNROLL for (int q = 0; q < Q; ++q) sum[b][q] = acc[b][q] = vi_dot4(_mm256_and_si256(acc[b][q], keep), bytes[q], w);
    }
  }
  float* out = (float*)(t.out + r * NR);
  for (int b = 0; b < B; ++b)
    for (int q = 0; q < Q; ++q)
      for (int v = 0; v < NV; ++v) {
        vf square[VL];  // 8 outputs by 4 rows of each group; the bits of int32
        PC_UNROLL for (int i = 0; i < VL; ++i) square[i] = _mm256_castsi256_ps(sums[v * VL + i][b][q]);
        vf_transpose(square);
        float* first = out + (b * 2 * ROWS + q * 4) * NR + v * VL;
        PC_UNROLL for (int i = 0; i < (G > 1 ? 8 : 4); ++i) vf_store(first + (i / 4 * ROWS + i % 4) * NR, square[i]);
      }
}

// out[r][i] = sum over the rest of output i of x[r][column] * value, for a panel of NR outputs.
void rest(const S8Rest& t) {
  if (!t.transposed) {  // few rows: not worth it
    for (int64_t r = 0; r < t.rows; ++r) {
      const uint8_t* x = (const uint8_t*)t.x + r * t.ldx;
      int32_t* out = t.out + r * NR;
      PC_UNROLL for (int v = 0; v < NV; ++v) vi_store(out + v * VL, vi_zero());
      __m128i sum = _mm_setzero_si128();
      for (const S8RestQuad* quad = t.begin; quad < t.end; ++quad) {
        const uint64_t at = columns(t, *quad);
        __m128i a = _mm_cvtsi32_si128(x[column(at, 0)]);
        a = _mm_insert_epi8(_mm_insert_epi8(_mm_insert_epi8(a, x[column(at, 1)], 1), x[column(at, 2)], 2), x[column(at, 3)], 3);
        const __m128i products = _mm_maddubs_epi16(a, _mm256_castsi256_si128(vi_broadcast_quad((const uint8_t*)quad->value)));
        sum = _mm_add_epi32(_mm_and_si128(sum, _mm_set1_epi16((int16_t)quad->keep)), _mm_madd_epi16(products, _mm_set1_epi16(1)));
        out[output(*quad)] = _mm_cvtsi128_si32(sum);
      }
    }
    return;
  }
  for (int64_t r = 0; r < t.rows; r += transposed_together(t.rows)) {
    const int64_t rows = t.rows - r;
    if (rows <= ROWS / 2)
      rest_of_rows<1, true>(t, r);
    else if (rows <= ROWS)
      rest_of_rows<1, false>(t, r);
    else if (rows <= 2 * ROWS)
      rest_of_rows<2, false>(t, r);
    else
      rest_of_rows<4, false>(t, r);
  }
}

constexpr GemmS8Kernel make() {
  GemmS8Kernel kernel = quads<true>("gemm_s8_split/" PC_ISA_NAME);
  kernel.transpose_rows = transpose_rows;
  kernel.rest = rest;
  return kernel;
}

}  // namespace

extern const GemmS8Kernel gemm_s8_split;
constexpr GemmS8Kernel gemm_s8_split = make();

}  // namespace PC_NS
}  // namespace pc
