// int8 GEMM by vpmaddubsw, made exact. It multiplies 4 values of k in a lane where vpmaddwd takes 2, but adds neighbours in 16 bits, saturating:
// 255 * (w0 + w1) leaves int16 when w0 and w1 have one sign and together exceed 128. Weights are known when they are packed, and few pairs of
// trained ones do (0.3 to 2.5 % in a sentence encoder). Of these w1 is cut down to what is safe, and what is cut off goes into a sparse
// rest, row by row of w. Its products are the tile's start.
//
// Tile: 6 x 16, as in s8_quads.h. Bound: vpmaddubsw and vpmaddwd for 32 MACs, both on the multipliers, and vpaddd beside them.
// Rest: 16 rows of x at a time are transposed once, for all panels; then two entries of the rest of an output are one vpmaddwd for 8 rows.
#include "gemm/s8_quads.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int ROWS = 16;  // transposed together
constexpr int NR = NV * VL;

// out[j * ROWS + i] = row i, byte j. Rows that do not exist are copies of the last.
void transpose_rows(const void* rows, ptrdiff_t ld, int count, int64_t k, uint8_t* out) {
  const uint8_t* x[ROWS];
  for (int i = 0; i < ROWS; ++i) x[i] = (const uint8_t*)rows + (i < count ? i : count - 1) * ld;
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
    PC_UNROLL for (int i = 0; i < 16; ++i) _mm_storeu_si128((__m128i*)(out + (j + i) * ROWS), a[i]);
  }
  for (; j < k; ++j)
    for (int i = 0; i < ROWS; ++i) out[j * ROWS + i] = x[i][j];
}

// An entry of the rest; its column is held to k, whatever a damaged file says.
PC_INLINE int64_t column(const S8Rest& t, uint32_t e) { return t.column[e] < t.k ? t.column[e] : 0; }

// One output by H times 8 transposed rows.
template <int H> PC_INLINE void rest_of_output(const S8Rest& t, const uint8_t* x, uint32_t begin, uint32_t end, vi (&sums)[H]) {
  PC_UNROLL for (int h = 0; h < H; ++h) sums[h] = vi_zero();
  for (uint32_t e = begin; e < end; e += 2) {
    const bool pair = e + 1 < end;  // the last entry may be alone: then it is taken twice, once by 0
    const uint8_t* x0 = x + column(t, e) * ROWS;
    const uint8_t* x1 = pair ? x + column(t, e + 1) * ROWS : x0;
    const vi w = vi_set1((int32_t)((uint32_t)(uint16_t)t.value[e] | (pair ? (uint32_t)(uint16_t)t.value[e + 1] << 16 : 0u)));
    PC_UNROLL for (int h = 0; h < H; h += 2) {
      const int64_t group = h / 2 * ROWS * t.k;
      const __m128i a = _mm_load_si128((const __m128i*)(x0 + group)), b = _mm_load_si128((const __m128i*)(x1 + group));
      sums[h] = vi_dot2(sums[h], _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)), w);
      if (h + 1 < H) sums[h + 1 < H ? h + 1 : h] = vi_dot2(sums[h + 1 < H ? h + 1 : h], _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b)), w);
    }
  }
}

// A panel by H times 8 transposed rows from row r on. How many entries an output has can't be foreseen by the CPU: the more rows are
// taken at once, the fewer times it is wrong. No group of ROWS is touched that has no row.
template <int H> void rest_of_rows(const S8Rest& t, const uint32_t* bound, int64_t r) {
  const uint8_t* x = t.transposed + r * t.k;
  for (int v = 0; v < NV; ++v) {
    vf square[H][VL];  // 8 outputs by 8 rows; the bits of int32
    for (int i = 0; i < VL; ++i) {
      vi sums[H];
      rest_of_output(t, x, bound[v * VL + i], bound[v * VL + i + 1], sums);
      PC_UNROLL for (int h = 0; h < H; ++h) square[h][i] = _mm256_castsi256_ps(sums[h]);
    }
    for (int h = 0; h < H; ++h) {
      vf_transpose(square[h]);
      for (int i = 0; i < VL && r + h * VL + i < t.rows; ++i) vf_store((float*)(t.out + (r + h * VL + i) * NR + v * VL), square[h][i]);
    }
  }
}

// out[r][i] = sum over the rest of output i of x[r][column] * value, for a panel of NR outputs.
void rest(const S8Rest& t) {
  uint32_t bound[NR + 1];
  for (int i = 0; i <= NR; ++i) bound[i] = t.begin[i] < t.count ? t.begin[i] : t.count;
  if (!t.transposed) {  // few rows: not worth it
    for (int64_t r = 0; r < t.rows; ++r) {
      const uint8_t* x = (const uint8_t*)t.x + r * t.ldx;
      for (int i = 0; i < NR; ++i) {
        uint32_t sum = 0;  // wraps where a damaged file makes it
        PC_UNROLL for (uint32_t e = bound[i]; e < bound[i + 1]; ++e) sum += (uint32_t)(x[column(t, e)] * t.value[e]);
        t.out[r * NR + i] = (int32_t)sum;
      }
    }
    return;
  }
  for (int64_t r = 0; r < t.rows; r += 8 * VL) {
    const int64_t vectors = (t.rows - r + VL - 1) / VL;
    if (vectors == 1)
      rest_of_rows<1>(t, bound, r);
    else if (vectors == 2)
      rest_of_rows<2>(t, bound, r);
    else if (vectors <= 4)
      rest_of_rows<4>(t, bound, r);
    else if (vectors <= 6)
      rest_of_rows<6>(t, bound, r);
    else
      rest_of_rows<8>(t, bound, r);
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
