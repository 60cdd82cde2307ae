// float32 depthwise, NHWC: a vector is VL channels of one pixel, and each pixel that is loaded serves all outputs of the tile that it lies under.
//
// Each output is one sum that takes its taps in order, row by row. Tile of 3x3: 1 x 4 outputs with AVX2 (4 sums, 9 weights, a pixel: 14 of 16
// registers), 2 x 4 with AVX-512 (18 of 32); of 5x5 1 x 8 outputs. 36 multiply-adds for 18 loads: the multiplier is the bound while x is in the near
// caches. A vector of AVX2 is half a cache line: where pixels lie so that L1 can't keep a line until the next block comes, 3x3 takes both halves at
// once (8 sums, the 6 weights of a row of taps, a pixel: 15 registers; 72 multiply-adds for 54 loads).
#include "conv/depthwise.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

// Vectors of a pixel side by side: as many as fill a cache line.
[[maybe_unused]] constexpr int together(int k) { return k == 3 && VL == 8 ? 2 : 1; }
// 5x5 holds the weights of one row of taps at a time: 8 sums hide the latency of their products, 4 don't.
[[maybe_unused]] constexpr bool in_registers(int k, int v) { return k == 3 && v == 1; }
[[maybe_unused]] constexpr int columns_of(int k, int stride) { return k == 5 && stride == 1 ? 8 : 4; }

template <int V> struct LastStep {
  vf bias[V], low, high;
  bool add;
  explicit PC_INLINE_MEMBER LastStep(const DepthwiseF32Tile& t) : low(vf_set1(t.low)), high(vf_set1(t.high)), add(t.bias != nullptr) {
    PC_UNROLL for (int v = 0; v < V; ++v) bias[v] = add ? vf_loadn(t.bias + v * VL, t.channels) : vf_zero();
  }
  PC_INLINE_MEMBER vf operator()(int v, vf sum) const {
    if (add) sum = vf_add(sum, bias[v]);
    return vf_min(high, vf_max(low, sum));
  }
};

template <bool Full> PC_INLINE vf load(const char* p, int n) { return Full ? vf_load((const float*)p) : vf_loadn((const float*)p, n); }
template <bool Full> PC_INLINE void store(char* p, vf x, int n) {
  if (Full)
    vf_store((float*)p, x);
  else
    vf_storen((float*)p, x, n);
}

template <int K, int S, int R, int V, bool Full, class Pixel, class Weight>
PC_INLINE void tile(const DepthwiseF32Tile& t, const LastStep<V>& last, char* y, int columns, Pixel pixel, Weight weight) {
  constexpr int C = columns_of(K, S), WIDE = (C - 1) * S + K;
  vf acc[V][R][C];
  PC_UNROLL for (int v = 0; v < V; ++v)
    PC_UNROLL for (int r = 0; r < R; ++r)
      PC_UNROLL for (int j = 0; j < C; ++j) acc[v][r][j] = vf_zero();
  PC_UNROLL for (int row = 0; row < (R - 1) * S + K; ++row)
    PC_UNROLL for (int i = 0; i < WIDE; ++i) {
      const char* at = pixel(row, i);
      PC_UNROLL for (int v = 0; v < V; ++v) {
        const vf x = load<Full>(at + v * VL * 4, t.channels);
        PC_UNROLL for (int r = 0; r < R; ++r) {
          const int ky = row - S * r;
          if (ky < 0 || ky >= K) continue;
          PC_UNROLL for (int j = 0; j < C; ++j) {
            const int kx = i - S * j;
            if (kx < 0 || kx >= K) continue;
            acc[v][r][j] = vf_muladd(x, weight(v, ky * K + kx), acc[v][r][j]);
            pin(acc[v][r][j]);
          }
        }
      }
    }
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int j = 0; j < C; ++j)
      if (j < columns)
        PC_UNROLL for (int v = 0; v < V; ++v) store<Full>(y + r * t.y_row + j * t.y_pixel + v * VL * 4, last(v, acc[v][r][j]), t.channels);
}

template <int K, int S, int R, int V, bool Full> PC_INLINE void strip_of(const DepthwiseF32Tile& t) {
  constexpr int ROWS = (R - 1) * S + K;
  const ptrdiff_t c = t.pixel_bytes;
  const char* x[ROWS];
  for (int r = 0; r < ROWS; ++r) x[r] = t.row[r];
  const LastStep<V> last(t);
  const float* w = (const float*)t.w;
  vf held[in_registers(K, V) ? K * K : 1];
  if (in_registers(K, V)) PC_UNROLL for (int i = 0; i < K * K; ++i) held[i] = vf_load(w + i * VL);
  char* y = t.y;
  for (int64_t n = t.count; n > 0; --n) {
    tile<K, S, R, V, Full>(
        t, last, y, columns_of(K, S), [&](int row, int i) __attribute__((always_inline)) { return x[row] + i * c; },
        [&](int v, int i) __attribute__((always_inline)) { return in_registers(K, V) ? held[in_registers(K, V) ? i : 0] : vf_load(w + (v * K * K + i) * VL); });
    PC_UNROLL for (int r = 0; r < ROWS; ++r) x[r] += columns_of(K, S) * S * c;
    y += columns_of(K, S) * t.y_pixel;
  }
}

template <int K, int S, int R, int V, bool Full> PC_INLINE void edge_of(const DepthwiseF32Tile& t) {
  constexpr int C = columns_of(K, S), WIDE = (C - 1) * S + K;
  const LastStep<V> last(t);
  const float* w = (const float*)t.w;
  tile<K, S, R, V, Full>(
      t, last, t.y, t.columns, [&](int row, int i) __attribute__((always_inline)) { return t.pixel[row * WIDE + i] + t.offset; },
      [&](int v, int i) __attribute__((always_inline)) { return vf_load(w + (v * K * K + i) * VL); });
}

template <int N> struct Vectors { static constexpr int count = N; };
template <bool B> struct Whole { static constexpr bool yes = B; };

// Block after block, V of them together. One that lacks channels is given alone.
template <int ROWS, int V, class Block> PC_INLINE void for_blocks(const DepthwiseF32Tile& given, Block block) {
  if (given.channels < VL) return block(given, Vectors<1>(), Whole<false>());
  DepthwiseF32Tile t = given;
  const auto step = [&](auto v) __attribute__((always_inline)) {
    constexpr int N = decltype(v)::count;
    block(t, v, Whole<true>());
    t.w = (const char*)t.w + N * t.w_bytes;
    if (t.bias) t.bias += N * VL;
    t.offset += N * VL * 4;
    t.y += N * VL * 4;
    for (int r = 0; r < ROWS; ++r) t.row[r] += N * VL * 4;
  };
  int n = t.blocks;
  for (; n >= V; n -= V) step(Vectors<V>());
  for (; V > 1 && n > 0; --n) step(Vectors<1>());
}

template <int K, int ROWS, class Block> PC_INLINE void for_lines(const DepthwiseF32Tile& t, Block block) {
  if (together(K) > 1 && t.together)
    for_blocks<ROWS, together(K)>(t, block);
  else
    for_blocks<ROWS, 1>(t, block);
}

template <int K, int S, int R> void strip(const DepthwiseF32Tile& given) {
  for_lines<K, (R - 1) * S + K>(
      given, [](const DepthwiseF32Tile& t, auto v, auto whole) { strip_of<K, S, R, decltype(v)::count, decltype(whole)::yes>(t); });
}

template <int K, int S, int R> void edge(const DepthwiseF32Tile& given) {
  for_lines<K, 0>(given, [](const DepthwiseF32Tile& t, auto v, auto whole) { edge_of<K, S, R, decltype(v)::count, decltype(whole)::yes>(t); });
}

// Any taps: by pointers, several outputs side by side to hide the latency of one sum.
template <int N> PC_INLINE void taps_of(const DepthwiseF32Tile& t, const LastStep<1>& last, const char* const* pixel, char* y) {
  const float* w = (const float*)t.w;
  vf acc[N];
  PC_UNROLL for (int j = 0; j < N; ++j) acc[j] = vf_zero();
  for (int64_t i = 0; i < t.taps; ++i, w += VL)
    PC_UNROLL for (int j = 0; j < N; ++j) acc[j] = vf_muladd(vf_loadn((const float*)(pixel[j * t.taps + i] + t.offset), t.channels), vf_load(w), acc[j]);
  PC_UNROLL for (int j = 0; j < N; ++j) vf_storen((float*)(y + j * t.y_pixel), last(0, acc[j]), t.channels);
}

void taps(const DepthwiseF32Tile& given) {
  for_blocks<0, 1>(given, [](const DepthwiseF32Tile& t, auto, auto) {
    const LastStep<1> last(t);
    int64_t n = 0;
    for (; n + 4 <= t.count; n += 4) taps_of<4>(t, last, t.pixel + n * t.taps, t.y + n * t.y_pixel);
    for (; n < t.count; ++n) taps_of<1>(t, last, t.pixel + n * t.taps, t.y + n * t.y_pixel);
  });
}

template <int K, int S, int R> constexpr DepthwiseF32Shape shape() { return {K, S, R, columns_of(K, S), strip<K, S, R>, edge<K, S, R>, edge<K, S, 1>}; }

[[maybe_unused]] constexpr int kRows = VL == 16 ? 2 : 1;

}  // namespace

extern const DepthwiseF32Kernel depthwise_f32;
constexpr DepthwiseF32Kernel depthwise_f32 = {
    "depthwise_f32/" PC_ISA_NAME,
    VL,
#if defined(PC_ISA_SCALAR) || defined(PC_SIMDE)  // one lane gains nothing by tiles, and over SIMDe they compile too long
    {},
#else
    {shape<3, 1, kRows>(), shape<3, 2, kRows>(), shape<5, 1, 1>(), shape<5, 2, 1>()},
#endif
    taps};

}  // namespace PC_NS
}  // namespace pc
