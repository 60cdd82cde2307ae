// float32 GEMM of a few rows of x by rows of w as they lie in memory, not packed: every weight is read once.
//
// Vectors run over outputs, as in f32.kernel.cpp, so that each output takes k in order and its bits are the same there and here. A square of VL
// outputs by VL inputs is loaded along k, transposed in registers, and multiplied by each row of x. 16 rows of w at a time: rows whose stride is a
// power of two share a set of L1, which has 8 to 12 ways. Nor does the hardware follow that many rows, so the lines of the next chunk are
// prefetched, row after row. Bound: memory, once w is larger than the caches; before, 3 (AVX2: 2) shuffles for each vector of w, and for 1 row
// of x the latency of its multiply-adds. (More rows at a time hide that, but then their lines drive each other out of L1.)
#include "gemm/gemm.h"
#include "gemm/lanes.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int NR = VL == 1 ? 4 : 16;
constexpr int CHUNK = 512;  // of k, prefetched as a whole
constexpr int LINE = 16;    // floats

// Side by side: as many squares as are needed to hide the latency of the chains, and as registers allow.
template <int R> constexpr int squares() { return VL == 1 ? NR : VL == 8 && R <= 2 ? 2 : 1; }

template <int R, int NV> PC_INLINE void multiply(const F32Few& t, const vf (&square)[VL], int64_t k, int v, vf (&acc)[R][NV]) {
  PC_UNROLL for (int j = 0; j < VL; ++j)
    PC_UNROLL for (int r = 0; r < R; ++r) acc[r][v] = vf_muladd(vf_set1(t.x[r * t.ldx + k + j]), square[j], acc[r][v]);
}

// Outputs [first, first + NV * VL) of the panel; Whole: all of them exist. Those that do not are computed as copies of the last, and not stored.
template <int R, int NV, bool Whole> PC_INLINE void some(const F32Few& t, int first) {
  constexpr int OUTPUTS = NV * VL, LINES = CHUNK / LINE, STEP = OUTPUTS * VL / LINE;  // lines: of a row's chunk, prefetched at each step
  static_assert(STEP == 0 || LINES % STEP == 0, "a step prefetches from one row");
  vf acc[R][NV];
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int v = 0; v < NV; ++v) acc[r][v] = vf_zero();
  const float* w0 = t.w + first * t.ldn;
  const float* w[Whole ? 1 : OUTPUTS];
  for (int i = 0; !Whole && i < OUTPUTS; ++i) w[i] = t.w + (first + i < t.columns ? first + i : t.columns - 1) * t.ldn;
  const float* at[(OUTPUTS + 3) / 4];  // every 4th row: the others are where an address can reach from there
  PC_UNROLL for (int i = 0; i < (OUTPUTS + 3) / 4; ++i) at[i] = w0 + 4 * i * t.ldn;
  const int64_t ld1 = t.ldn, ld3 = 3 * t.ldn;

  int64_t k = 0;
  while (k + VL <= t.k) {
    // At the end of k, the first chunk of the next outputs. Beyond the array a prefetch does nothing.
    const int64_t ahead = k + CHUNK < t.k ? k + CHUNK : OUTPUTS * t.ldn;
    int line = 0;
    for (int64_t end = k + CHUNK; k < end && k + VL <= t.k; k += VL) {
      const float* far = w0 + line / LINES * t.ldn + ahead + line % LINES * LINE;
      PC_UNROLL for (int i = 0; i < STEP; ++i) prefetch(far + i * LINE);
      line += STEP;
      PC_UNROLL for (int v = 0; v < NV; ++v) {
        vf square[VL];
        vf_load_columns(
            [&](int i) {
              if (!Whole) return w[v * VL + i] + k;
              const float* p = at[(v * VL + i) / 4];
              return (v * VL + i) % 4 == 0 ? p : (v * VL + i) % 4 == 1 ? p + ld1 : (v * VL + i) % 4 == 2 ? p + 2 * ld1 : p + ld3;
            },
            square);
        multiply(t, square, k, v, acc);
      }
      PC_UNROLL for (int i = 0; i < (OUTPUTS + 3) / 4; ++i) at[i] += VL;
    }
  }
  if (const int rest = VL == 1 ? 0 : (int)(t.k - k)) {
    float column[VL * VL];
    for (int v = 0; v < NV; ++v) {
      vf square[VL];
      PC_UNROLL for (int i = 0; i < VL; ++i) square[i] = vf_loadn(Whole ? w0 + (v * VL + i) * t.ldn + k : w[v * VL + i] + k, rest);
      vf_transpose(square);
      PC_UNROLL for (int j = 0; j < VL; ++j) vf_store(column + j * VL, square[j]);
      for (int j = 0; j < rest; ++j)
        PC_UNROLL for (int r = 0; r < R; ++r) acc[r][v] = vf_muladd(vf_set1(t.x[r * t.ldx + k + j]), vf_load(column + j * VL), acc[r][v]);
    }
  }

  const vf low = vf_set1(t.low), high = vf_set1(t.high);
  for (int v = 0; v < NV; ++v) {
    const int at = first + v * VL, n = lanes_of(t.columns, first / VL + v);
    PC_UNROLL for (int r = 0; r < R; ++r) {
      vf value = acc[r][v];
      if (t.bias) value = vf_add(value, vf_loadn(t.bias + at, n));
      vf_storen(t.y + r * t.ldy + at, vf_min(high, vf_max(low, value)), n);
    }
  }
}

template <int R> void rows(const F32Few& t) {
  constexpr int NV = squares<R>();
  for (int first = 0; first < NR && first < t.columns; first += NV * VL)
    if (first + NV * VL <= t.columns)
      some<R, NV, true>(t, first);
    else
      some<R, NV, false>(t, first);
}

template <int R> constexpr void fill(F32FewFunction* by_rows) {
  by_rows[R - 1] = rows<R>;
  if constexpr (R > 1) fill<R - 1>(by_rows);
}

constexpr GemmF32FewKernel make() {
  GemmF32FewKernel kernel{"gemm_f32_few/" PC_ISA_NAME, NR, {}};
  fill<kFewRows>(kernel.rows);
  return kernel;
}

}  // namespace

extern const GemmF32FewKernel gemm_f32_few;
constexpr GemmF32FewKernel gemm_f32_few = make();

}  // namespace PC_NS
}  // namespace pc
