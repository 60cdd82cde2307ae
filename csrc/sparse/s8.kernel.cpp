// Sparse int8, 4 values of k to a product, in two forms.
//
// Quads: 4 neighbouring values of k are one position of the panel (blocks of (1, 4) and their multiples). panel.h has the tiles.
// Columns: any 4 values of k. The panel holds a column of 64 bytes for each k; 4 columns are interleaved in registers into the rows' quads, which
// serve 1 output or 4. Bound: for 1 output the 8 shuffles for 4 products, for 4 outputs the products.
//
// A product is vpdpbusd. AVX2 has vpmaddubsw, vpmaddwd and vpaddd instead; where neighbours could saturate, packing has made two steps of one.
#include "sparse/few_columns.h"

namespace pc {
namespace PC_NS {
namespace {

// ---- columns

// VL * 4 rows at a time. Interleaving works within quarters (AVX2: halves) of a vector: what comes out as vector j, quarter l holds what lay 4 * j
// bytes into that quarter. So a column has row VL * j + 4 * l + i at byte 16 * l + 4 * j + i.
#if defined(PC_ISA_AVX512VNNI)
PC_INLINE vi low8(vi a, vi b) { return _mm512_unpacklo_epi8(a, b); }
PC_INLINE vi high8(vi a, vi b) { return _mm512_unpackhi_epi8(a, b); }
PC_INLINE vi low16(vi a, vi b) { return _mm512_unpacklo_epi16(a, b); }
PC_INLINE vi high16(vi a, vi b) { return _mm512_unpackhi_epi16(a, b); }
PC_INLINE vi low32(vi a, vi b) { return _mm512_unpacklo_epi32(a, b); }
PC_INLINE vi high32(vi a, vi b) { return _mm512_unpackhi_epi32(a, b); }
PC_INLINE vi low64(vi a, vi b) { return _mm512_unpacklo_epi64(a, b); }
PC_INLINE vi high64(vi a, vi b) { return _mm512_unpackhi_epi64(a, b); }
PC_INLINE vi by_byte(vi a) {
  return _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
PC_INLINE vi in_order(vi a) { return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), a); }
constexpr int OUTPUTS = 4;
#elif !defined(PC_ISA_SCALAR)
PC_INLINE vi low8(vi a, vi b) { return _mm256_unpacklo_epi8(a, b); }
PC_INLINE vi high8(vi a, vi b) { return _mm256_unpackhi_epi8(a, b); }
PC_INLINE vi low16(vi a, vi b) { return _mm256_unpacklo_epi16(a, b); }
PC_INLINE vi high16(vi a, vi b) { return _mm256_unpackhi_epi16(a, b); }
PC_INLINE vi low32(vi a, vi b) { return _mm256_unpacklo_epi32(a, b); }
PC_INLINE vi high32(vi a, vi b) { return _mm256_unpackhi_epi32(a, b); }
PC_INLINE vi low64(vi a, vi b) { return _mm256_unpacklo_epi64(a, b); }
PC_INLINE vi high64(vi a, vi b) { return _mm256_unpackhi_epi64(a, b); }
PC_INLINE vi by_byte(vi a) {
  return _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
PC_INLINE vi in_order(vi a) { return _mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7)); }
constexpr int OUTPUTS = 2;  // at a time, for 8 sums beside the 4 vectors of quads
#endif

#if defined(PC_ISA_SCALAR)

template <int R> void columns(const SparseGroup& g) {
  for (int j = 0; j < G; ++j) {
    int32_t* sum = g.sum + g.output[j] * kSparseRows;
    for (int r = 0; r < kSparseRows; ++r) {
      vi acc = g.first ? 0 : sum[r];
      for (int64_t s = 0; s < g.steps; ++s) {
        const uint8_t* position = g.position + (s * (G / R) + j / R) * 4;
        uint8_t quad[4];
        for (int i = 0; i < 4; ++i) quad[i] = ((const uint8_t*)g.x)[position[i] * kSparseRows + r];
        vi x;
        memcpy(&x, quad, 4);
        acc = dot4(acc, x, Dot::weight(g.value + s * G + j));
      }
      sum[r] = acc;
    }
  }
}

void interleave(const uint8_t* bytes, uint8_t* quads) {
  for (int r = 0; r < kSparseRows; ++r)
    for (int i = 0; i < 4; ++i) quads[4 * r + i] = bytes[i * kSparseRows + r];
}

void to_columns(uint8_t* panel, int64_t positions) {
  for (int64_t p = 0; p < positions; ++p) {
    uint8_t* out = panel + p * 4 * kSparseRows;
    uint8_t quads[4 * kSparseRows];
    memcpy(quads, out, sizeof quads);
    for (int r = 0; r < kSparseRows; ++r)
      for (int i = 0; i < 4; ++i) out[i * kSparseRows + r] = quads[r * 4 + i];
  }
}

#else

PC_INLINE void to_quads(vi a, vi b, vi c, vi d, vi (&quad)[4]) {
  const vi ab = low8(a, b), ab_high = high8(a, b), cd = low8(c, d), cd_high = high8(c, d);
  quad[0] = low16(ab, cd);
  quad[1] = high16(ab, cd);
  quad[2] = low16(ab_high, cd_high);
  quad[3] = high16(ab_high, cd_high);
}

// Outputs j.. that share columns, by the rows of byte `at` of the columns on.
template <int R, int N> PC_INLINE void some_columns(const SparseGroup& g, int j, int at) {
  vi acc[N][4];
  int32_t* sum[N];
  PC_UNROLL for (int i = 0; i < N; ++i) {
    sum[i] = g.sum + g.output[j + i] * kSparseRows + at;
    PC_UNROLL for (int v = 0; v < 4; ++v) acc[i][v] = g.first ? vi_zero() : vi_load(sum[i] + v * VL);
  }
  const uint8_t* x = (const uint8_t*)g.x + at;
  const uint32_t* value = g.value + j;
  const uint8_t* position = g.position + j / R * 4;
  const auto column = [x](uint8_t p) __attribute__((always_inline)) { return vi_load((const int32_t*)(x + (size_t)p * kSparseRows)); };
  for (int64_t s = g.steps; s > 0; --s) {
    vi quad[4];
    to_quads(column(position[0]), column(position[1]), column(position[2]), column(position[3]), quad);
    PC_UNROLL for (int i = 0; i < N; ++i) {
      const vi w = Dot::weight(value + i);
      PC_UNROLL for (int v = 0; v < 4; ++v) acc[i][v] = dot4(acc[i][v], quad[v], w);
    }
    value += G;
    position += G / R * 4;
  }
  PC_UNROLL for (int i = 0; i < N; ++i)
    PC_UNROLL for (int v = 0; v < 4; ++v) vi_store(sum[i] + v * VL, acc[i][v]);
}

#if !defined(PC_ISA_AVX512VNNI)
constexpr int NARROW = 8;

// Columns of 8 rows: 4 of them are one vector, and 4 outputs at a time.
template <int R> PC_INLINE void some_narrow_columns(const SparseGroup& g, int j) {
  vi acc[R];
  PC_UNROLL for (int i = 0; i < R; ++i) acc[i] = g.first ? vi_zero() : vi_load(g.sum + g.output[j + i] * kSparseRows);
  const uint8_t* x = (const uint8_t*)g.x;
  const uint32_t* value = g.value + j;
  const uint8_t* position = g.position + j / R * 4;
  const auto column = [x](uint8_t p) __attribute__((always_inline)) { return _mm_loadl_epi64((const __m128i*)(x + (size_t)p * NARROW)); };
  for (int64_t s = g.steps; s > 0; --s) {
    const __m128i ab = _mm_unpacklo_epi8(column(position[0]), column(position[1])), cd = _mm_unpacklo_epi8(column(position[2]), column(position[3]));
    const vi quad = _mm256_setr_m128i(_mm_unpacklo_epi16(ab, cd), _mm_unpackhi_epi16(ab, cd));
    PC_UNROLL for (int i = 0; i < R; ++i) acc[i] = dot4(acc[i], quad, Dot::weight(value + i));
    value += G;
    position += G / R * 4;
  }
  PC_UNROLL for (int i = 0; i < R; ++i) vi_store(g.sum + g.output[j + i] * kSparseRows, acc[i]);
}

template <int R> void narrow_columns(const SparseGroup& g) {
  for (int j = 0; j < G; j += R) some_narrow_columns<R>(g, j);
}

// In place: positions of 8 dwords to 4 columns of 8 bytes each.
void to_narrow_columns(uint8_t* panel, int64_t positions) {
  for (int64_t p = 0; p < positions; ++p, panel += 4 * NARROW) {
    const vi bytes = by_byte(vi_load((const int32_t*)panel));
    vi_store((int32_t*)panel, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  }
}
#endif

template <int R> void columns(const SparseGroup& g) {
  constexpr int N = R < OUTPUTS ? R : OUTPUTS;
  for (int at = 0; at < g.vectors * VL; at += 4 * VL)
    for (int j = 0; j < G; j += N) some_columns<R, N>(g, j, at);
}

void interleave(const uint8_t* bytes, uint8_t* quads) {
  for (int at = 0; at < kSparseRows; at += 4 * VL) {
    vi c[4], quad[4];
    PC_UNROLL for (int i = 0; i < 4; ++i) c[i] = in_order(vi_load((const int32_t*)(bytes + i * kSparseRows + at)));
    to_quads(c[0], c[1], c[2], c[3], quad);
    PC_UNROLL for (int v = 0; v < 4; ++v) vi_store((int32_t*)quads + at + v * VL, quad[v]);
  }
}

void to_columns(uint8_t* panel, int64_t positions) {
  constexpr int PARTS = kSparseRows / (4 * VL);
  for (int64_t p = 0; p < positions; ++p, panel += 4 * kSparseRows) {
    vi q[PARTS][4];
    PC_UNROLL for (int h = 0; h < PARTS; ++h)
      PC_UNROLL for (int v = 0; v < 4; ++v) q[h][v] = by_byte(vi_load((const int32_t*)panel + (h * 4 + v) * VL));
    PC_UNROLL for (int h = 0; h < PARTS; ++h) {
      const vi low01 = low32(q[h][0], q[h][1]), high01 = high32(q[h][0], q[h][1]);
      const vi low23 = low32(q[h][2], q[h][3]), high23 = high32(q[h][2], q[h][3]);
      int32_t* out = (int32_t*)(panel + h * 4 * VL);
      vi_store(out, low64(low01, low23));
      vi_store(out + kSparseRows / 4, high64(low01, low23));
      vi_store(out + 2 * kSparseRows / 4, low64(high01, high23));
      vi_store(out + 3 * kSparseRows / 4, high64(high01, high23));
    }
  }
}

#endif

#if defined(PC_ISA_SCALAR) || defined(PC_ISA_AVX512VNNI)
constexpr SparseNarrowColumns NARROW_COLUMNS = {0, {nullptr, nullptr}, nullptr};
#else
constexpr SparseNarrowColumns NARROW_COLUMNS = {NARROW, {narrow_columns<1>, narrow_columns<kSparseShared>}, to_narrow_columns};
#endif

// ---- last step, the operations of gemm/s8_last_step.h

struct Sums {
  vi w_sum, x_zero_point, bias_q;
  vf scale;
  bool with_bias_q;
  explicit PC_INLINE_MEMBER Sums(const S8Tile& t) : bias_q(vi_zero()), scale(vf_zero()), with_bias_q(t.bias_q != nullptr) {}
  PC_INLINE_MEMBER void outputs(const S8Tile& t, int c) {
    w_sum = vi_load(t.w_sum + c);
    if (t.scale) scale = vf_load(t.scale + c);
    if (with_bias_q) bias_q = vi_load(t.bias_q + c);
  }
  PC_INLINE_MEMBER void output(const S8Tile& t, int i) {
    w_sum = vi_set1(t.w_sum[i]);
    if (t.scale) scale = vf_set1(t.scale[i]);
    if (with_bias_q) bias_q = vi_set1(t.bias_q[i]);
  }
  PC_INLINE_MEMBER void row(const S8Tile& t, int r) { x_zero_point = vi_set1(t.x_zero_point[r]); }
  PC_INLINE_MEMBER void rows(const S8Tile& t, int r) { x_zero_point = vi_load(t.x_zero_point + r); }
  PC_INLINE_MEMBER vi sum(vf bits) {
    const vi acc = vi_sub(vi_bits(bits), vi_mul(x_zero_point, w_sum));
    return with_bias_q ? vi_add_saturate(acc, bias_q) : acc;
  }
};

struct ToInt : Sums {
  static constexpr int kSize = 4;
  explicit PC_INLINE_MEMBER ToInt(const S8Tile& t) : Sums(t) {}
  PC_INLINE_MEMBER void put(char* y, vf bits, int n) {
    if (n == VL)
      vi_store((int32_t*)y, sum(bits));
    else
      vi_storen((int32_t*)y, sum(bits), n);
  }
};

struct ToFloat : Sums {
  static constexpr int kSize = 4;
  vf low, high, x_scale, bias;
  bool with_bias;
  explicit PC_INLINE_MEMBER ToFloat(const S8Tile& t) : Sums(t), low(vf_set1(t.low)), high(vf_set1(t.high)), bias(vf_zero()), with_bias(t.bias != nullptr) {}
  PC_INLINE_MEMBER void outputs(const S8Tile& t, int c) {
    Sums::outputs(t, c);
    if (with_bias) bias = vf_load(t.bias + c);
  }
  PC_INLINE_MEMBER void output(const S8Tile& t, int i) {
    Sums::output(t, i);
    if (with_bias) bias = vf_set1(t.bias[i]);
  }
  PC_INLINE_MEMBER void row(const S8Tile& t, int r) {
    Sums::row(t, r);
    x_scale = vf_set1(t.x_scale[r]);
  }
  PC_INLINE_MEMBER void rows(const S8Tile& t, int r) {
    Sums::rows(t, r);
    x_scale = vf_load(t.x_scale + r);
  }
  PC_INLINE_MEMBER void put(char* y, vf bits, int n) {
    vf value = vf_mul(vf_from_vi(sum(bits)), vf_mul(x_scale, scale));
    if (with_bias) value = vf_add(value, bias);
    value = vf_min(high, vf_max(low, value));
    if (n == VL)
      vf_store((float*)y, value);
    else
      vf_storen((float*)y, value, n);
  }
};

struct ToByte : Sums {
  static constexpr int kSize = 1;
  vf low, high;
  vi zero_point;
  explicit PC_INLINE_MEMBER ToByte(const S8Tile& t) : Sums(t), low(vf_set1(t.low)), high(vf_set1(t.high)), zero_point(vi_set1(t.y_zero_point)) {}
  PC_INLINE_MEMBER vi quantized(vf bits) {
    const vf value = vf_mul(vf_from_vi(sum(bits)), scale);
    return vi_from_vf(vf_min(vf_max(value, low), high));
  }
#if !defined(PC_ISA_SCALAR) && !defined(PC_ISA_AVX512VNNI)
  // 4 rows of 8 outputs make one vector of bytes; they are clamped, so that no packing saturates.
  PC_INLINE_MEMBER void put_four(const S8Tile& t, char* y, int r, const vf* bits) {
    vi q[4];
    PC_UNROLL for (int i = 0; i < 4; ++i) {
      row(t, r + i);
      q[i] = _mm256_and_si256(vi_add(quantized(bits[i]), zero_point), vi_set1(255));
    }
    const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(q[0], q[1]), _mm256_packus_epi32(q[2], q[3]));
    const __m256i rows = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    PC_UNROLL for (int i = 0; i < 4; ++i) vb_store<1>(y + i * t.ldy, rows, i);
  }
#endif
  PC_INLINE_MEMBER void put(char* y, vf bits, int n) {
    const vi q = vi_add(quantized(bits), zero_point);
    if (n == VL)
      vi_store_8(y, q);
    else
      vi_store_8n(y, q, n);
  }
};

}  // namespace

extern const SparseS8Kernel sparse_s8;
const SparseS8Kernel sparse_s8 = {
    "sparse_s8/" PC_ISA_NAME,
    VL,
    SATURATES,
    {multiply<Dot, 1>, multiply<Dot, kSparseShared>},
    {columns<1>, columns<kSparseShared>},
    {{few<Dot, IntSums, 1>, few<Dot, IntSums, kSparseShared>}, {VL == 16 ? 4 : 2, VL == 16 ? 4 : 3}, 0, POSITIONS},
    FEW_COLUMNS,
    VBMI,
    finish<ToInt>,
    finish<ToFloat>,
    finish<ToByte>,
    largest,
    interleave,
    transpose,
    to_columns,
    NARROW_COLUMNS,
};

}  // namespace PC_NS
}  // namespace pc
