// int4 GEMM in plain C++, for any CPU: tiles of 4 x 4 over an expanded panel, which is in the layout of s4.h with one lane to a vector and 4 of them.
#include "gemm/gemm.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int NR = 4, MR = 4, CHUNK = (int)kS4Chunk;

PC_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void expand(const char* panel, int64_t chunks, int64_t group_chunks, char* out) {
  for (int64_t left = chunks; left > 0; left -= group_chunks) {
    memcpy(out, panel, NR * 4);
    panel += NR * 4;
    for (int i = 0; i < NR; ++i, panel += s4_sum_bytes(group_chunks)) {
      int16_t short_sum;
      int32_t sum;
      memcpy(&short_sum, panel, 2);
      if (s4_sum_bytes(group_chunks) == 2)
        sum = short_sum;
      else
        memcpy(&sum, panel, 4);
      memcpy(out + NR * 4 + i * 4, &sum, 4);
    }
    out += NR * 8;
    for (int64_t c = least(left, group_chunks); c > 0; --c)
      for (int j = 0; j < CHUNK / 8; ++j, panel += NR * 4, out += NR * 8)
        for (int i = 0; i < NR * 4; ++i) {
          const int both = (uint8_t)panel[i], low = (both & 15) - 8, high = (both >> 4) - 8;
          out[i] = (char)low;
          out[NR * 4 + i] = (char)high;
        }
  }
}

template <int R> void tile(const S4Tile& t) {
  float total[R][NR] = {};
  const uint8_t* x = t.x;
  const int8_t* w = (const int8_t*)t.w;
  for (int64_t left = t.chunks; left > 0; left -= t.group_chunks) {
    const float* scale = (const float*)w;
    const int32_t* sum = (const int32_t*)(w + NR * 4);
    int32_t acc[R][NR];
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < NR; ++n) acc[r][n] = -t.x_zero_point[r] * sum[n];
    w += NR * 8;
    for (int64_t s = least(left, t.group_chunks) * (CHUNK / 4); s > 0; --s, x += 4, w += NR * 4) PC_UNROLL for (int r = 0; r < R; ++r)
        PC_UNROLL for (int n = 0; n < NR; ++n)
          PC_UNROLL for (int i = 0; i < 4; ++i) acc[r][n] += x[r * t.ldx + i] * w[4 * n + i];
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < NR; ++n) total[r][n] += (float)acc[r][n] * scale[n];
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < t.columns; ++n) {
      float value = total[r][n] * t.x_scale[r];
      if (t.bias) value += t.bias[n];
      t.y[r * t.ldy + n] = vf_min(t.high, vf_max(t.low, value));
    }
}

constexpr GemmS4Kernel make() { return {"gemm_s4/" PC_ISA_NAME, MR, NR, 0, {}, {tile<1>, tile<2>, tile<3>, tile<4>}, expand, nullptr}; }

}  // namespace

extern const GemmS4Kernel gemm_s4;
constexpr GemmS4Kernel gemm_s4 = make();

}  // namespace PC_NS
}  // namespace pc
