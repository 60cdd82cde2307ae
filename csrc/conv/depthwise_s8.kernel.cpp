// int8 depthwise, NHWC: neighbouring pixels interleaved byte by byte, so that a 32-bit lane holds several taps of one channel.
//
// A block is one vector of bytes: 64 channels with AVX-512, 32 with 256 bits. G pixels of it, interleaved, are 4 vectors with G taps in each lane:
// G = 4 for vpdpbusd; G = 2 for AVX2, as int16 for vpmaddwd, which is exact for every uint8 and int8. One such group serves each output that
// touches it, at another shift of the weights: packing lays the weights out once for each shift. A 3x3 tile of 2 x 2 outputs reads 4 rows of one
// group of 4 pixels: 32 shuffles, 48 products and 72 operations of the last step for 256 sums, of which no kind of port has more than half.
//
// Interleaving within quarters of a vector puts channel 16 l + 4 q + e into lane 4 l + e of vector q, and packing to bytes, also within quarters,
// puts it back. Registers: 16 sums with AVX-512. With 256 bits a tile goes in two passes over halves of the channels: 8 sums in each.
#include "conv/bytes.h"
#include "conv/depthwise_order.h"

namespace pc {
namespace PC_NS {
namespace {

#if defined(PC_ISA_AVX2)
constexpr int G = 2;
PC_INLINE vi dot(vi c, vi x, vi w) { return vi_dot2(c, x, w); }
#else
constexpr int G = 4;
PC_INLINE vi dot(vi c, vi x, vi w) { return vi_dot4(c, x, w); }
#endif
constexpr int BLOCK = 4 * VL, QUARTERS = VL / 4;
constexpr int NQ = VL == 16 ? 4 : 2, PASSES = 4 / NQ;  // vectors of sums in a pass

// ---- which taps of a row a group of pixels serves

// Slot s of a group holds tap shift + s, if that is at least `from` and less than k.
struct Variant {
  int shift, from;
};
constexpr bool operator==(const Variant& a, const Variant& b) { return a.shift == b.shift && a.from == b.from; }

// Groups begin at every `step`-th pixel of a tile. Those of stride 2 overlap: each output has a group that begins with its first tap.
constexpr int step_of(int stride) { return stride == 2 ? 2 : G; }

struct Use {
  int group;
  Variant variant;
};
constexpr int kMaxUses = 4;

// The groups that output j of a tile takes a row of its taps from; their number is where a use begins at tap k.
constexpr Use use_of(int k, int stride, int j, int index) {
  const int step = step_of(stride), first = stride * j;
  int group = first / step, from = 0;
  for (int i = 0; i < index; ++i) {
    from = step * group + G - first;
    if (from >= k) return {0, {0, k}};
    const int past = first + from - G + 1;  // the first group that reaches this tap
    group = past <= 0 ? 0 : (past + step - 1) / step;
  }
  return {group, {step * group - first, from}};
}

// All variants of k: those of stride 1 in tiles of `columns`, and of stride 2.
constexpr int columns_of(int k, int stride) { return k == 5 && stride == 1 ? 4 : 2; }
struct Variants {
  Variant v[12];
  int count;
};
constexpr Variants variants_of(int k) {
  Variants all{};
  for (int stride = 1; stride <= 2; ++stride)
    for (int j = 0; j < columns_of(k, stride); ++j)
      for (int i = 0; i < kMaxUses; ++i) {
        const Use use = use_of(k, stride, j, i);
        if (use.variant.from >= k) break;
        bool known = false;
        for (int n = 0; n < all.count; ++n) known = known || all.v[n] == use.variant;
        if (!known) all.v[all.count++] = use.variant;
      }
  return all;
}
template <int K> constexpr int index_of(Variant wanted) {
  constexpr Variants all = variants_of(K);
  for (int n = 0; n < all.count; ++n)
    if (all.v[n] == wanted) return n;
  return -1;
}

// ---- interleaving

// Bytes of pixels a and b side by side: NQ / 2 vectors, for pass h.
struct Pair {
  vi v[NQ / 2];
};
PC_INLINE Pair pair_of(vi a, vi b, int h) {
  Pair p;
  if constexpr (NQ == 4) {
    p.v[0] = by_unpack_low8(a, b);
    p.v[1] = by_unpack_high8(a, b);
  } else {
    p.v[0] = h ? by_unpack_high8(a, b) : by_unpack_low8(a, b);
  }
  return p;
}

// The group that begins with pair a; with G = 2 that is pair a alone, widened.
struct Group {
  vi v[NQ];
};
PC_INLINE Group group_of(const Pair& a, const Pair& b) {
  Group g;
  PC_UNROLL for (int i = 0; i < NQ / 2; ++i) {
    g.v[2 * i] = G == 4 ? by_unpack_low16(a.v[i], b.v[i]) : by_unpack_low8(a.v[i], vi_zero());
    g.v[2 * i + 1] = G == 4 ? by_unpack_high16(a.v[i], b.v[i]) : by_unpack_high8(a.v[i], vi_zero());
  }
  return g;
}

template <bool Dual, bool Signed> PC_INLINE vi load(const char* a, const char* b) {
  vi x = Dual ? by_load_halves(a, b) : by_load(a);
  if (Signed) x = by_xor(x, by_set8(0x80));
  return x;
}

// ---- the last step

struct Requantize {
  vi zero_point, low, high, flip;
  explicit PC_INLINE_MEMBER Requantize(const DepthwiseS8Tile& t)
      : zero_point(by_set16(t.y_zero_point)), low(by_set8(t.low)), high(by_set8(t.high)), flip(by_set8(t.flip)) {}
  // Two vectors of sums as int16.
  PC_INLINE_MEMBER vi words(vi a, vi b, const float* mult) const {
    const vi p = vi_from_vf(vf_mul(vf_from_vi(a), vf_load(mult))), q = vi_from_vf(vf_mul(vf_from_vi(b), vf_load(mult + VL)));
    return by_add16(by_pack32(p, q), zero_point);
  }
  PC_INLINE_MEMBER vi bytes(vi low_words, vi high_words) const {
    return by_xor(by_min8(by_max8(by_pack16(low_words, high_words), low), high), flip);
  }
};

template <bool Dual> PC_INLINE void store(const DepthwiseS8Tile& t, char* y, char* second, vi q, bool first_exists, bool second_exists) {
  if (!Dual && first_exists) {
    if (t.channels == BLOCK)
      by_store(y, q);
    else
      by_storen(y, q, t.channels);
  }
  if (Dual && t.channels == BLOCK / 2) {
    if (first_exists) by_store_half(y, q, 0);
    if (second_exists) by_store_half(second, q, 1);
  } else if (Dual) {
    if (first_exists) by_storen_half(y, q, 0, t.channels);
    if (second_exists) by_storen_half(second, q, 1, t.channels);
  }
}

// Vector q of sums, in the order of channels; dual: its upper half to `second`.
template <bool Dual> PC_INLINE void store_raw(int32_t* raw, int32_t* second, vi sum, int q) {
  by_store_quarter<0>(raw + 4 * q, sum);
  if constexpr (QUARTERS == 2) {
    by_store_quarter<1>((Dual ? second : raw + 16) + 4 * q, sum);
  } else {
    by_store_quarter<1>(raw + 16 + 4 * q, sum);
    by_store_quarter<2 % QUARTERS>((Dual ? second : raw + 32) + 4 * q, sum);
    by_store_quarter<3 % QUARTERS>((Dual ? second : raw + 32) + 16 + 4 * q, sum);
  }
}

// ---- a tile

// The compiler doesn't see that weights are loaded twice: it would keep them on the stack.
[[maybe_unused]] PC_INLINE void hide(const uint8_t*& p) {
#if defined(__GNUC__)
  __asm__("" : "+r"(p));
#endif
}

// load_pixel(row, i, second) is pixel i of a row under the tile; dual: of the second tile.
template <int K, int S, int COLS, int R, bool Dual, bool Signed, bool Raw, class Pixel>
PC_INLINE void tile(const DepthwiseS8Tile& t, char* y, int32_t* raw, int columns, Pixel pixel) {
  constexpr int WIDE = (COLS - 1) * S + K, PAIRS = (WIDE + 1) / 2, VARIANTS = variants_of(K).count, STEP = step_of(S);
  constexpr int GROUPS = (WIDE - G + STEP - 1) / STEP + 1;
  const uint8_t* w = (const uint8_t*)t.w;
  vi words[PASSES][R][COLS];  // of both halves of the channels, where there are two passes
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int j = 0; j < COLS; ++j)
      PC_UNROLL for (int h = 0; h < PASSES; ++h) words[h][r][j] = vi_zero();
  const Requantize requantize(t);
  PC_UNROLL for (int h = 0; h < PASSES; ++h) {
    vi acc[R][COLS][NQ];
    PC_UNROLL for (int q = 0; q < NQ; ++q) {
      const vi start = vi_load(t.start + (h * NQ + q) * VL);
      PC_UNROLL for (int r = 0; r < R; ++r)
        PC_UNROLL for (int j = 0; j < COLS; ++j) acc[r][j][q] = start;
    }
    PC_UNROLL for (int row = 0; row < (R - 1) * S + K; ++row) {
      hide(w);
      Pair pairs[PAIRS];
      PC_UNROLL for (int i = 0; i < PAIRS; ++i) {
        const int next = 2 * i + 1 < WIDE ? 2 * i + 1 : 2 * i;
        pairs[i] = pair_of(load<Dual, Signed>(pixel(row, 2 * i, false), pixel(row, 2 * i, true)),
                           load<Dual, Signed>(pixel(row, next, false), pixel(row, next, true)), h);
      }
      PC_UNROLL for (int g = 0; g < GROUPS; ++g) {
        const int first = g * STEP / 2, second = first + 1 < PAIRS ? first + 1 : first;
        const Group x = group_of(pairs[first], pairs[second]);
        PC_UNROLL for (int r = 0; r < R; ++r) {
          const int ky = row - S * r;
          if (ky < 0 || ky >= K) continue;
          PC_UNROLL for (int j = 0; j < COLS; ++j)
            PC_UNROLL for (int u = 0; u < kMaxUses; ++u) {
              const Use use = use_of(K, S, j, u);
              if (use.variant.from >= K || use.group != g) continue;
              const uint8_t* of_variant = w + (size_t)((ky * VARIANTS + index_of<K>(use.variant)) * 4 + h * NQ) * BLOCK;
              PC_UNROLL for (int q = 0; q < NQ; ++q) {
                acc[r][j][q] = dot(acc[r][j][q], x.v[q], vi_load((const int32_t*)(of_variant + q * BLOCK)));
                pin(acc[r][j][q]);
              }
            }
        }
      }
    }
    PC_UNROLL for (int r = 0; r < R; ++r)
      PC_UNROLL for (int j = 0; j < COLS; ++j) {
        if constexpr (Raw) {
          int32_t* to = raw + (r * t.raw_columns + j) * BLOCK;
          // Those of a tile that reaches beyond the row lie behind the others, where there is room for it.
          PC_UNROLL for (int q = 0; q < NQ; ++q) store_raw<Dual>(to, to + COLS * BLOCK, acc[r][j][q], h * NQ + q);
          continue;
        }
        const float* mult = t.mult + h * NQ * VL;
        vi half = requantize.words(acc[r][j][0], acc[r][j][1], mult);
        if constexpr (NQ == 4) {
          const vi q = requantize.bytes(half, requantize.words(acc[r][j][2], acc[r][j][3], mult + 2 * VL));
          char* to = y + r * t.y_row + j * t.y_pixel;
          store<Dual>(t, to, to + COLS * t.y_pixel, q, j < columns, j + COLS < columns);
        } else {
          words[h][r][j] = half;
        }
      }
  }
  if (NQ == 4 || Raw) return;
  PC_UNROLL for (int r = 0; r < R; ++r)
    PC_UNROLL for (int j = 0; j < COLS; ++j) {
      char* to = y + r * t.y_row + j * t.y_pixel;
      store<Dual>(t, to, to + COLS * t.y_pixel, requantize.bytes(words[0][r][j], words[PASSES - 1][r][j]), j < columns, j + COLS < columns);
    }
}

template <int K, int S, int COLS, int R, bool Dual, bool Signed, bool Raw> void strip_block(const DepthwiseS8Tile& t) {
  constexpr int ROWS = (R - 1) * S + K;
  const ptrdiff_t c = t.pixel_bytes, tiles = Dual ? 2 : 1, advance = tiles * COLS * S * c;
  const char* x[ROWS];
  for (int r = 0; r < ROWS; ++r) x[r] = t.row[r];
  char* y = t.y;
  int32_t* raw = t.raw;
  for (int64_t n = t.count; n > 0; --n) {
    tile<K, S, COLS, R, Dual, Signed, Raw>(t, y, raw, (int)tiles * COLS, [&](int row, int i, bool second) __attribute__((always_inline)) {
      return x[row] + (i + (Dual && second ? COLS * S : 0)) * c;
    });
    PC_UNROLL for (int r = 0; r < ROWS; ++r) x[r] += advance;
    y += tiles * COLS * t.y_pixel;
    if (Raw) raw += tiles * COLS * BLOCK;
  }
}

template <int K, int S, int COLS, int R, bool Dual, bool Signed, bool Raw> void edge_block(const DepthwiseS8Tile& t) {
  constexpr int ROWS = (R - 1) * S + K, WIDE = (COLS - 1) * S + K;
  tile<K, S, COLS, R, Dual, Signed, Raw>(t, t.y, t.raw, t.columns, [&](int row, int i, bool second) __attribute__((always_inline)) {
    return t.pixel[(Dual && second ? ROWS * WIDE : 0) + row * WIDE + i] + t.offset;
  });
}

// Any taps: groups of G pixels by pointers, one output at a time.
template <bool Signed, bool Raw> void taps_block(const DepthwiseS8Tile& t) {
  const Requantize requantize(t);
  const char* const* pixel = t.pixel;
  for (int64_t n = 0; n < t.count; ++n) {
    vi acc[4];
    PC_UNROLL for (int q = 0; q < 4; ++q) acc[q] = vi_load(t.start + q * VL);
    const uint8_t* w = (const uint8_t*)t.w;
    for (int64_t i = 0; i < t.taps; i += G, pixel += G, w += 4 * BLOCK) {
      vi x[G];
      PC_UNROLL for (int g = 0; g < G; ++g) x[g] = load<false, Signed>(pixel[g] + t.offset, nullptr);
      PC_UNROLL for (int h = 0; h < PASSES; ++h) {
        const Group group = group_of(pair_of(x[0], x[1], h), pair_of(x[G - 2], x[G - 1], h));
        PC_UNROLL for (int q = 0; q < NQ; ++q)
          acc[h * NQ + q] = dot(acc[h * NQ + q], group.v[q], vi_load((const int32_t*)(w + (h * NQ + q) * BLOCK)));
      }
    }
    if constexpr (Raw) {
      PC_UNROLL for (int q = 0; q < 4; ++q) store_raw<false>(t.raw + n * BLOCK, nullptr, acc[q], q);
    } else {
      const vi low = requantize.words(acc[0], acc[1], t.mult), high = requantize.words(acc[2], acc[3], t.mult + 2 * VL);
      store<false>(t, t.y + n * t.y_pixel, nullptr, requantize.bytes(low, high), true, false);
    }
  }
}

// ---- block after block

template <int ROWS, class Block> PC_INLINE void for_blocks(const DepthwiseS8Tile& given, Block block) {
  DepthwiseS8Tile t = given;
  for (int n = given.blocks; n > 0; --n) {
    block(t);
    t.w = (const char*)t.w + t.w_bytes;
    t.start += BLOCK;
    t.mult += BLOCK;
    t.offset += BLOCK;
    t.y += BLOCK;
    for (int r = 0; r < ROWS; ++r) t.row[r] += BLOCK;
  }
}

template <int K, int S, int COLS, int R, bool Dual, bool Signed, bool Raw> void strip(const DepthwiseS8Tile& given) {
  for_blocks<(R - 1) * S + K>(given, [](const DepthwiseS8Tile& t) { strip_block<K, S, COLS, R, Dual, Signed, Raw>(t); });
}
template <int K, int S, int COLS, int R, bool Dual, bool Signed, bool Raw> void edge(const DepthwiseS8Tile& given) {
  for_blocks<0>(given, [](const DepthwiseS8Tile& t) { edge_block<K, S, COLS, R, Dual, Signed, Raw>(t); });
}
template <bool Signed, bool Raw> void taps(const DepthwiseS8Tile& given) {
  for_blocks<0>(given, [](const DepthwiseS8Tile& t) { taps_block<Signed, Raw>(t); });
}

// ---- packing

// Lane i of vector q is this channel of the block.
constexpr int channel_of(int q, int i) { return 16 * (i / 4) + 4 * q + i % 4; }

// The weights [channels][taps] of a block.
struct Source {
  const int8_t* w;
  int channels;
  bool dual;
  int64_t taps;
  int8_t at(int c, int64_t tap) const {
    if (dual) c %= BLOCK / 2;
    return c < channels ? w[c * taps + tap] : (int8_t)0;
  }
};

// Vectors of G values for each lane; tap(slot) is the tap of a slot, or less than 0 for none.
template <class Tap> uint8_t* pack_group(const Source& w, uint8_t* to, Tap tap) {
  for (int q = 0; q < 4; ++q)
    for (int i = 0; i < VL; ++i)
      for (int s = 0; s < G; ++s) {
        const int64_t t = tap(s);
        const int8_t value = t < 0 ? (int8_t)0 : w.at(channel_of(q, i), t);
        const int16_t wide = value;
        memcpy(to, G == 4 ? (const void*)&value : (const void*)&wide, 4 / G);
        to += 4 / G;
      }
  return to;
}

constexpr int64_t groups_of(int64_t taps) { return (taps + G - 1) / G; }

size_t block_bytes(int64_t kh, int64_t kw) {
  const int variants = kh == kw && kh == 3 ? variants_of(3).count : kh == kw && kh == 5 ? variants_of(5).count : 0;
  return (size_t)(groups_of(kh * kw) + variants * kh) * 4 * BLOCK;
}

// What tiles of a shape read: [row][variant].
template <int K> uint8_t* pack_shape(const Source& w, uint8_t* to) {
  constexpr Variants all = variants_of(K);
  for (int ky = 0; ky < K; ++ky)
    for (int n = 0; n < all.count; ++n)
      to = pack_group(w, to, [&](int s) {
        const int tap = all.v[n].shift + s;
        return tap >= all.v[n].from && tap >= 0 && tap < K ? ky * K + tap : -1;
      });
  return to;
}

// Behind that, or alone, what taps() reads.
void pack_block(const int8_t* w, int channels, bool dual, int64_t kh, int64_t kw, void* block) {
  const Source source{w, channels, dual, kh * kw};
  uint8_t* to = (uint8_t*)block;
  if (kh == kw && kh == 3) to = pack_shape<3>(source, to);
  if (kh == kw && kh == 5) to = pack_shape<5>(source, to);
  for (int64_t g = 0; g < groups_of(kh * kw); ++g) to = pack_group(source, to, [&](int s) { return g * G + s < kh * kw ? g * G + s : -1; });
}

size_t taps_offset(int64_t kh, int64_t kw) { return block_bytes(kh, kw) - (size_t)groups_of(kh * kw) * 4 * BLOCK; }

void order(const void* natural, int n, bool dual, void* ordered) {
  int32_t values[BLOCK] = {0};
  memcpy(values, natural, (size_t)n * 4);
  if (dual) memcpy(values + BLOCK / 2, natural, (size_t)n * 4);
  for (int q = 0; q < 4; ++q)
    for (int l = 0; l < QUARTERS; ++l) memcpy((int32_t*)ordered + q * VL + 4 * l, values + 16 * l + 4 * q, 16);
}

template <int K, int S, int R, bool Raw> constexpr DepthwiseS8Tiles tiles() {
  constexpr int C = columns_of(K, S);
  return {{{strip<K, S, C, R, false, false, Raw>, strip<K, S, C, R, false, true, Raw>}, {strip<K, S, C, R, true, false, Raw>, strip<K, S, C, R, true, true, Raw>}},
          {{edge<K, S, C, R, false, false, Raw>, edge<K, S, C, R, false, true, Raw>}, {edge<K, S, C, R, true, false, Raw>, edge<K, S, C, R, true, true, Raw>}},
          {{edge<K, S, C, 1, false, false, Raw>, edge<K, S, C, 1, false, true, Raw>}, {edge<K, S, C, 1, true, false, Raw>, edge<K, S, C, 1, true, true, Raw>}}};
}
template <int K, int S, int R> constexpr DepthwiseS8Shape shape() { return {K, S, R, columns_of(K, S), {tiles<K, S, R, false>(), tiles<K, S, R, true>()}}; }

}  // namespace

extern const DepthwiseS8Kernel depthwise_s8;
constexpr DepthwiseS8Kernel depthwise_s8 = {"depthwise_s8/" PC_ISA_NAME,
                                            BLOCK,
                                            G,
// With these the tiles compile for many minutes: the general kernel does it all.
#if defined(PC_SIMDE) || defined(__clang__) || defined(__SANITIZE_ADDRESS__)
                                            {},
#else
                                            {shape<3, 1, 2>(), shape<3, 2, 2>(), shape<5, 1, 1>(), shape<5, 2, 2>()},
#endif
                                            {{taps<false, false>, taps<true, false>}, {taps<false, true>, taps<true, true>}},
                                            block_bytes,
                                            taps_offset,
                                            pack_block,
                                            order,
                                            last_step_of,
                                            {finish<ToS32>, finish<ToF32>, finish<ToQ8>}};

}  // namespace PC_NS
}  // namespace pc
