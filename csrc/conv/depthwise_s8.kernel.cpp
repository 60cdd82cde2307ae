// int8 depthwise, NHWC: neighbouring rows interleaved byte by byte, so that a 32-bit lane holds several taps of one channel.
//
// A block is one vector of bytes: 64 channels with AVX-512, 32 with 256 bits. G pixels of it, one below the other and interleaved, are 4 vectors with
// G taps in each lane: G = 4 for vpdpbusd; G = 2 for AVX2, as int16 for vpmaddwd, which is exact for every uint8 and int8. Such a group of rows
// serves every output that touches it: those of R rows at another shift of the weights, which packing lays out once for each shift, and those of K
// columns.
//
// So a strip of R rows of outputs goes in two steps, some 32 columns at a time: first the groups of each column of x into a buffer in L1, then tiles
// of R x C outputs from there, each for one of the 4 vectors after the other, so that a weight that is loaded serves C outputs. Borders are a matter
// of the first step alone. 3x3 with vpdpbusd, stride 1, for each output of a block: 4 shuffles, 12 products and 17 operations of the last step, of
// which no kind of port has more than half, and 9 loads.
//
// Interleaving within quarters of a vector puts channel 16 l + 4 q + e into lane 4 l + e of vector q, and packing to bytes, also within quarters,
// puts it back. Registers of a tile: R x C sums, and as many results that wait to be packed. C is 4 where the columns under it fit beside them.
//
// 3x3 with stride 2 on AVX2 goes another way, without the buffer: see slide().
#include "conv/bytes.h"
#include "conv/depthwise_order.h"

namespace pc {
namespace PC_NS {
namespace {

// Functions that SIMDe spells out in hundreds of instructions stay functions there.
#if defined(PC_SIMDE)
#define OPERATION PC_NOINLINE
#define OPERATION_MEMBER __attribute__((noinline))
#else
#define OPERATION PC_INLINE
#define OPERATION_MEMBER PC_INLINE_MEMBER
#endif

#if defined(PC_ISA_AVX2)
constexpr int G = 2;
PC_INLINE vi dot(vi c, vi x, vi w) { return vi_dot2(c, x, w); }
#else
constexpr int G = 4;
OPERATION vi dot(vi c, vi x, vi w) { return vi_dot4(c, x, w); }
#endif
constexpr int BLOCK = 4 * VL, QUARTERS = VL / 4;

// body(Int<Begin>) ... body(Int<End - 1>): counters that are constants before any optimization, which keeps compile times short.
template <int N> struct Int {
  static constexpr int value = N;
  constexpr operator int() const { return N; }
};
template <int Begin, int End, class Body> PC_INLINE void for_ints(Body body) {
  if constexpr (Begin < End) {
    body(Int<Begin>());
    for_ints<Begin + 1, End>(body);
  }
}
#if defined(__GNUC__)
#define INLINE_BODY __attribute__((always_inline))
#else
#define INLINE_BODY
#endif

// ---- which taps of a column a group of rows serves

// Slot s of a group holds tap shift + s, if that is at least `from` and less than k.
struct Variant {
  int shift, from;
};
constexpr bool operator==(const Variant& a, const Variant& b) { return a.shift == b.shift && a.from == b.from; }

constexpr int R = 2;  // rows of outputs of a tile
// Groups begin at every `step`-th row of a tile. For 3x3 with stride 2 they overlap: each row of outputs has a group that begins with its first tap.
constexpr int step_of(int k, int stride) { return stride == 2 && k == 3 ? 2 : G; }

struct Use {
  int group;
  Variant variant;
};
constexpr int kMaxUses = 4;

// The groups that row r of a tile takes a column of its taps from; their number is where a use begins at tap k.
constexpr Use use_of(int k, int stride, int r, int index) {
  const int step = step_of(k, stride), first = stride * r;
  int group = first / step, from = 0;
  for (int i = 0; i < index; ++i) {
    from = step * group + G - first;
    if (from >= k) return {0, {0, k}};
    const int past = first + from - G + 1;  // the first group that reaches this tap
    group = past <= 0 ? 0 : (past + step - 1) / step;
  }
  return {group, {step * group - first, from}};
}

// All variants of k: those of both strides.
struct Variants {
  Variant v[12];
  int count;
};
constexpr Variants variants_of(int k) {
  Variants all{};
  for (int stride = 1; stride <= 2; ++stride)
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < kMaxUses; ++i) {
        const Use use = use_of(k, stride, r, i);
        if (use.variant.from >= k) break;
        bool known = false;
        for (int n = 0; n < all.count; ++n) known = known || all.v[n] == use.variant;
        if (!known) all.v[all.count++] = use.variant;
      }
  return all;
}
constexpr int index_of(int k, Variant wanted) {
  const Variants all = variants_of(k);
  for (int n = 0; n < all.count; ++n)
    if (all.v[n] == wanted) return n;
  return -1;
}

// What follows from a kernel's size and stride.
template <int K, int S> struct Form {
  static constexpr int C = K == 3 || (VL == 16 && S == 1) ? 4 : 2;  // outputs of a tile
  static constexpr int ROWS = (R - 1) * S + K;                      // of x under it
  static constexpr int STEP = step_of(K, S), GROUPS = (ROWS - G + STEP - 1) / STEP + 1, PAIRS = (ROWS + 1) / 2;
  static constexpr int COLUMN = GROUPS * 4 * BLOCK;                    // bytes of a column in the buffer
  static constexpr int OUTPUTS = ((kMaxColumns - K) / S + 1) / C * C;  // at a time
  static constexpr int VARIANTS = variants_of(K).count;
  static_assert(ROWS <= kMaxTileRows && COLUMN <= kMaxColumnBytes, "the driver has room for it");
};

// ---- columns of x, interleaved

template <bool Dual, bool Signed> OPERATION vi load(const char* a, const char* b) {
  vi x = Dual ? by_load_halves(a, b) : by_load(a);
  if (Signed) x = by_xor(x, by_set8(0x80));
  return x;
}

// Bytes of two pixels side by side.
struct Pair {
  vi low, high;
};
OPERATION Pair pair_of(vi a, vi b) { return {by_unpack_low8(a, b), by_unpack_high8(a, b)}; }

// The group that begins with pair a; with G = 2 that is pair a alone, widened.
OPERATION void store_group(char* to, const Pair& a, const Pair& b) {
  vi* v = (vi*)to;
  v[0] = G == 4 ? by_unpack_low16(a.low, b.low) : by_unpack_low8(a.low, vi_zero());
  v[1] = G == 4 ? by_unpack_high16(a.low, b.low) : by_unpack_high8(a.low, vi_zero());
  v[2] = G == 4 ? by_unpack_low16(a.high, b.high) : by_unpack_low8(a.high, vi_zero());
  v[3] = G == 4 ? by_unpack_high16(a.high, b.high) : by_unpack_high8(a.high, vi_zero());
}

// `count` columns `step` bytes apart, whose rows begin at row[].
template <int K, int S, bool Dual, bool Signed> void interleave(const char* const* row, ptrdiff_t step, int64_t count, char* to) {
  using F = Form<K, S>;
  const char* x[F::ROWS];
  const char* second[F::ROWS];
  for_ints<0, F::ROWS>([&](auto r) INLINE_BODY {
    x[r] = row[r];
    second[r] = Dual ? row[F::ROWS + r] : nullptr;
  });
  for (int64_t i = 0; i < count; ++i, to += F::COLUMN) {
    Pair pairs[F::PAIRS];
    for_ints<0, F::PAIRS>([&](auto p) INLINE_BODY {
      constexpr int a = 2 * p, b = a + 1 < F::ROWS ? a + 1 : a;
      pairs[p] = pair_of(load<Dual, Signed>(x[a] + i * step, second[a] + i * step), load<Dual, Signed>(x[b] + i * step, second[b] + i * step));
    });
    for_ints<0, F::GROUPS>([&](auto g) INLINE_BODY {
      constexpr int a = g * F::STEP / 2, b = a + 1 < F::PAIRS ? a + 1 : a;
      store_group(to + g * 4 * BLOCK, pairs[a], pairs[b]);
    });
  }
}

// Columns [begin, end) of x; those that don't exist are zero points.
template <int K, int S, bool Dual, bool Signed> void gather(const DepthwiseS8Tile& t, int64_t begin, int64_t end, char* to) {
  using F = Form<K, S>;
  constexpr int ALL = (Dual ? 2 : 1) * F::ROWS;
  while (begin < end) {
    const bool inside = begin >= 0 && begin < t.width, direct = inside && begin < t.direct;
    int64_t stop = begin < 0 ? 0 : direct ? t.direct : inside ? t.width : end;
    stop = stop < end ? stop : end;
    if (inside) {
      const char* row[ALL];
      const ptrdiff_t at = t.offset + (direct ? begin : begin - t.direct) * t.pixel_bytes;
      for (int r = 0; r < ALL; ++r) row[r] = (direct ? t.row[r] : t.copy[r]) + at;
      interleave<K, S, Dual, Signed>(row, t.pixel_bytes, stop - begin, to);
      to += (stop - begin) * F::COLUMN;
    } else {
      const vi padding = G == 4 ? by_set8(t.x_zero_point) : by_set16(t.x_zero_point);
      for (const char* last = to + (stop - begin) * F::COLUMN; to < last; to += BLOCK) by_store(to, padding);
    }
    begin = stop;
  }
}

// ---- the last step

struct Requantize {
  vi zero_point, low, high, flip;
  bool clamps;
  explicit PC_INLINE_MEMBER Requantize(const DepthwiseS8Tile& t)
      : zero_point(by_set16(t.y_zero_point)),
        low(by_set8(t.low)),
        high(by_set8(t.high)),
        flip(by_set8(t.flip)),
        clamps(t.low > 0 || t.high < 255 || t.flip != 0) {}
  OPERATION_MEMBER vi levels(vi sum, vf mult) const { return vi_from_vf(vf_mul(vf_from_vi(sum), mult)); }
  // Two vectors of levels as int16.
  OPERATION_MEMBER vi words(vi a, vi b) const { return by_add16(by_pack32(a, b), zero_point); }
  OPERATION_MEMBER vi bytes(vi low_words, vi high_words) const {
    const vi q = by_pack16(low_words, high_words);
    return clamps ? by_xor(by_min8(by_max8(q, low), high), flip) : q;
  }
};

// Where results go: those of a dual block in halves, to rows r and R + r.
PC_NOINLINE void store_some(char* y, vi q, int channels) { by_storen(y, q, channels); }
PC_NOINLINE void store_some_half(char* y, vi q, int half, int channels) { by_storen_half(y, q, half, channels); }

struct Place {
  ptrdiff_t y_row, y_pixel, below, raw_columns;
  int rows, second_rows, channels;
  bool dual, whole;
  PC_INLINE_MEMBER Place(const DepthwiseS8Tile& t, int r)
      : y_row(t.y_row),
        y_pixel(t.y_pixel),
        below(r * t.y_row),
        raw_columns(t.raw_columns),
        rows(t.rows),
        second_rows(t.rows - r),
        channels(t.channels),
        dual(t.dual),
        whole(t.channels == (t.dual ? BLOCK / 2 : BLOCK)) {}
  OPERATION_MEMBER void store(char* y, int r, int j, vi q) const {
    char* to = y + r * y_row + j * y_pixel;
    if (!dual) {
      if (r >= rows) return;
      if (whole)
        by_store(to, q);
      else
        store_some(to, q, channels);
    } else if (whole) {
      if (r < rows) by_store_half(to, q, 0);
      if (r < second_rows) by_store_half(to + below, q, 1);
    } else {
      if (r < rows) store_some_half(to, q, 0, channels);
      if (r < second_rows) store_some_half(to + below, q, 1, channels);
    }
  }
  // Vector q of sums, in the order of channels.
  OPERATION_MEMBER void store_raw(int32_t* raw, int r, int j, vi sum, int q) const {
    int32_t *to = raw + (r * raw_columns + j) * BLOCK + 4 * q, *second = to + (dual ? R * raw_columns * BLOCK : BLOCK / 2);
    by_store_quarter<0>(to, sum);
    if constexpr (QUARTERS == 2) {
      by_store_quarter<1>(second, sum);
    } else {
      by_store_quarter<1>(to + 16, sum);
      by_store_quarter<2 % QUARTERS>(second, sum);
      by_store_quarter<3 % QUARTERS>(second + 16, sum);
    }
  }
};

// ---- a tile

// What group g adds to vector q of the sums of row r, if it is use u of that row.
template <int K, int S, int C, int g, int r, int u> PC_INLINE void add(const vi* x, const uint8_t* w, int q, vi* acc) {
  using F = Form<K, S>;
  constexpr Use use = use_of(K, S, r, u);
  if constexpr (use.variant.from < K && use.group == g) {
    constexpr int variant = index_of(K, use.variant);
    for_ints<0, K>([&](auto kx) INLINE_BODY {
      const vi weight = vi_load((const int32_t*)(w + ((kx * F::VARIANTS + variant) * 4 + q) * BLOCK));
      for_ints<0, C>([&](auto j) INLINE_BODY {
        acc[j] = dot(acc[j], x[S * j + decltype(kx)::value], weight);
        pin(acc[j]);
      });
    });
  }
}

// Sums of vector q of R x C outputs.
template <int K, int S, int C> PC_INLINE void sums(const char* columns, const uint8_t* w, const int32_t* start, int q, vi (&acc)[R][C]) {
  using F = Form<K, S>;
  const vi first = vi_load(start + q * VL);
  for_ints<0, R>([&](auto r) INLINE_BODY { for_ints<0, C>([&](auto j) INLINE_BODY { acc[decltype(r)::value][j] = first; }); });
  for_ints<0, F::GROUPS>([&](auto g) INLINE_BODY {
    constexpr int WIDE = (C - 1) * S + K;
    vi x[WIDE];
    for_ints<0, WIDE>([&](auto i) INLINE_BODY { x[i] = vi_load((const int32_t*)(columns + i * F::COLUMN + (decltype(g)::value * 4 + q) * BLOCK)); });
    for_ints<0, R>([&](auto r) INLINE_BODY {
      for_ints<0, kMaxUses>(
          [&](auto u) INLINE_BODY { add<K, S, C, decltype(g)::value, decltype(r)::value, decltype(u)::value>(x, w, q, acc[decltype(r)::value]); });
    });
  });
}

// body(r, j) for each output of a tile.
template <int C, class Each> PC_INLINE void for_outputs(Each each) {
  for_ints<0, R>([&](auto r) INLINE_BODY { for_ints<0, C>([&](auto j) INLINE_BODY { each((int)decltype(r)::value, (int)decltype(j)::value); }); });
}

// Outputs [0, count) of a strip, from the columns under them; the last 3, 2 or 1 of them in a tile of 3 or 2. Plain: t is neither dual
// nor raw and has all channels; to look that up for each output would cost a tenth of the time.
template <int K, int S, int C, bool Plain> void multiply(const DepthwiseS8Tile& t, const char* columns, int64_t count, char* y, int32_t* raw) {
  using F = Form<K, S>;
  const Requantize requantize(t);
  const Place place(t, R);
  const uint8_t* w = (const uint8_t*)t.w;
  for (; count > (C == 4 ? 3 : 0); count -= C, columns += C * S * F::COLUMN, y += C * t.y_pixel, raw = raw ? raw + C * BLOCK : nullptr) {
    vi words[2][R][C];
    for_ints<0, 2>([&](auto h) INLINE_BODY {
      vi a[R][C], b[R][C];
      const vf* mult = (const vf*)t.mult;
      sums<K, S, C>(columns, w, t.start, 2 * h, a);
      if (Plain || !t.raw) for_outputs<C>([&](int r, int j) INLINE_BODY { a[r][j] = requantize.levels(a[r][j], mult[2 * decltype(h)::value]); });
      sums<K, S, C>(columns, w, t.start, 2 * h + 1, b);
      if (!Plain && t.raw)
        for_outputs<C>([&](int r, int j) INLINE_BODY {
          place.store_raw(raw, r, j, a[r][j], 2 * decltype(h)::value);
          place.store_raw(raw, r, j, b[r][j], 2 * decltype(h)::value + 1);
          words[decltype(h)::value][r][j] = vi_zero();
        });
      else
        for_outputs<C>([&](int r, int j) INLINE_BODY {
          words[decltype(h)::value][r][j] = requantize.words(a[r][j], requantize.levels(b[r][j], mult[2 * decltype(h)::value + 1]));
        });
    });
    if (!Plain && t.raw) continue;
    for_outputs<C>([&](int r, int j) INLINE_BODY {
      const vi q = requantize.bytes(words[0][r][j], words[1][r][j]);
      if (j >= count) return;
      if (!Plain)
        place.store(y, r, j, q);
      else if (r < t.rows)
        by_store(y + r * t.y_row + j * t.y_pixel, q);
    });
  }
  if constexpr (C == 4) {
    if (count == 3)
      multiply<K, S, 3, Plain>(t, columns, count, y, raw);
    else if (count > 0)
      multiply<K, S, 2, Plain>(t, columns, count, y, raw);
  }
}

// Block after block.
template <class Block> PC_INLINE void for_blocks(const DepthwiseS8Tile& given, Block block) {
  DepthwiseS8Tile t = given;
  for (int n = given.blocks; n > 0; --n) {
    block(t);
    t.w = (const char*)t.w + t.w_bytes;
    t.start += BLOCK;
    t.mult += BLOCK;
    t.offset += BLOCK;
    t.y += BLOCK;
  }
}

template <int K, int S, bool Dual, bool Signed> void strip(const DepthwiseS8Tile& given) {
  using F = Form<K, S>;
  const bool plain = !Dual && !given.raw && given.channels == BLOCK;
  for (int64_t first = 0; first < given.count; first += F::OUTPUTS) {
    const int64_t count = given.count - first < F::OUTPUTS ? given.count - first : F::OUTPUTS;
    const int64_t column = given.column + first * S, columns = (count + (count % F::C == 1) - 1) * S + K;
    DepthwiseS8Tile t = given;
    t.y += first * t.y_pixel;
    for_blocks(t, [&](const DepthwiseS8Tile& block) INLINE_BODY {
      gather<K, S, Dual, Signed>(block, column, column + columns, t.buffer);
      if (plain)
        multiply<K, S, F::C, true>(block, t.buffer, count, block.y, nullptr);
      else
        multiply<K, S, F::C, false>(block, t.buffer, count, block.y, t.raw ? t.raw + first * BLOCK : nullptr);
    });
  }
}

// ---- 3x3 with stride 2 and 2 taps in a lane

// Here most of the time would go into the buffer: each group of rows serves one or two outputs, and is as many bytes as 4 taps would be. So the pair
// is two columns of a row, which is multiplied at once, while it is in registers: for the output that ends with its first column, and for the one
// that begins with both. The sums of the latter are carried to the next pair. Weights come from memory, one for each product.
constexpr bool slides(int k, int stride) { return G == 2 && k == 3 && stride == 2; }
constexpr int kSlideRows = R * 2 + 1;  // of x
constexpr int kSlideGroups = 3 * 2;    // of weights: for each row of taps the first two, and the third alone

// The pairs that begin at row[] and second[] (dual), b_at further the second pixel of each. Ends: sums gets those of the output that ends here.
template <bool Dual, bool Signed, bool Ends>
PC_INLINE void slide(const DepthwiseS8Tile& t, const uint8_t* w, const char* const* row, const char* const* second, ptrdiff_t b_at,
                        vi (&carried)[4][R], vi (&sums)[4][R]) {
  for_ints<0, 2>([&](auto half) INLINE_BODY {
    constexpr int q = 2 * decltype(half)::value;
    vi end[2][R], begin[2][R];
    for_ints<0, R>([&](auto r) INLINE_BODY {
      for_ints<0, 2>([&](auto i) INLINE_BODY {
        if (Ends) end[i][r] = carried[q + i][r];
        begin[i][r] = vi_load(t.start + (q + i) * VL);
      });
    });
    for_ints<0, kSlideRows>([&](auto n) INLINE_BODY {
      const vi a = load<Dual, Signed>(row[n], second[n]), b = load<Dual, Signed>(row[n] + b_at, second[n] + b_at);
      const vi pair = q == 0 ? by_unpack_low8(a, b) : by_unpack_high8(a, b);
      const vi x[2] = {by_unpack_low8(pair, vi_zero()), by_unpack_high8(pair, vi_zero())};
      for_ints<0, R>([&](auto r) INLINE_BODY {
        constexpr int ky = decltype(n)::value - 2 * decltype(r)::value;
        if constexpr (ky >= 0 && ky < 3)
          for_ints<0, 2>([&](auto i) INLINE_BODY {
            const vi* weight = (const vi*)(w + (ky * 2 * 4 + q + decltype(i)::value) * BLOCK);
            begin[i][r] = dot(begin[i][r], x[i], weight[0]);
            pin(begin[i][r]);
            if constexpr (Ends) {
              end[i][r] = dot(end[i][r], x[i], weight[4]);
              pin(end[i][r]);
            }
          });
      });
    });
    for_ints<0, R>([&](auto r) INLINE_BODY {
      for_ints<0, 2>([&](auto i) INLINE_BODY {
        carried[q + i][r] = begin[i][r];
        if (Ends) sums[q + i][r] = end[i][r];
      });
    });
  });
}

// Columns c and c + 1 of each row side by side, in halves where dual, as uint8. Those that don't exist are zero points.
template <bool Dual, bool Signed> PC_NOINLINE void copy_pairs(const DepthwiseS8Tile& t, int64_t c, char* to) {
  for (int r = 0; r < kSlideRows; ++r)
    for (int64_t i = c; i < c + 2; ++i, to += BLOCK) {
      const bool direct = i < t.direct;
      const char* const* from = direct ? t.row : t.copy;
      const ptrdiff_t at = t.offset + (direct ? i : i - t.direct) * t.pixel_bytes;
      const bool exists = i >= 0 && i < t.width;
      by_store(to, exists ? load<Dual, Signed>(from[r] + at, Dual ? from[kSlideRows + r] + at : nullptr) : by_set8(t.x_zero_point));
    }
}

template <bool Dual, bool Signed, bool Raw> void slide_block(const DepthwiseS8Tile& t) {
  const Requantize requantize(t);
  const Place place(t, R);
  const bool plain = !Dual && t.channels == BLOCK;
  const vf* mult = (const vf*)t.mult;
  const uint8_t* w = (const uint8_t*)t.w + 3 * variants_of(3).count * 4 * BLOCK;  // behind those of pack_shape<3>
  alignas(64) char copy[kSlideRows * 2 * BLOCK];
  const char *row[kSlideRows], *second[kSlideRows], *copied[kSlideRows];
  const ptrdiff_t at = t.offset + (t.column + 2) * t.pixel_bytes;
  for (int r = 0; r < kSlideRows; ++r) {
    row[r] = t.row[r] + at;
    second[r] = Dual ? t.row[kSlideRows + r] + at : nullptr;
    copied[r] = copy + r * 2 * BLOCK;
  }
  vi carried[4][R], sums[4][R];
  copy_pairs<Dual, Signed>(t, t.column, copy);
  slide<false, false, false>(t, w, copied, copied, BLOCK, carried, sums);
  for (int64_t j = 0; j < t.count; ++j) {
    const int64_t c = t.column + 2 * (j + 1);
    if (c >= 0 && c + 2 <= t.direct) {
      slide<Dual, Signed, true>(t, w, row, second, t.pixel_bytes, carried, sums);
    } else {
      copy_pairs<Dual, Signed>(t, c, copy);
      slide<false, false, true>(t, w, copied, copied, BLOCK, carried, sums);
    }
    for (int r = 0; r < kSlideRows; ++r) {
      row[r] += 2 * t.pixel_bytes;
      if (Dual) second[r] += 2 * t.pixel_bytes;
    }
    for_ints<0, R>([&](auto r) INLINE_BODY {
      if constexpr (Raw) {
        for_ints<0, 4>([&](auto q) INLINE_BODY { place.store_raw(t.raw + j * BLOCK, r, 0, sums[q][r], q); });
      } else {
        vi p[4];
        for_ints<0, 4>([&](auto q) INLINE_BODY { p[q] = requantize.levels(sums[q][r], mult[q]); });
        const vi q = requantize.bytes(requantize.words(p[0], p[1]), requantize.words(p[2], p[3]));
        char* y = t.y + j * t.y_pixel;
        if (!plain)
          place.store(y, r, 0, q);
        else if (r < t.rows)
          by_store(y + r * t.y_row, q);
      }
    });
  }
}

template <bool Dual, bool Signed> void slide_strip(const DepthwiseS8Tile& given) {
  if (given.raw)
    slide_block<Dual, Signed, true>(given);
  else
    for_blocks(given, [](const DepthwiseS8Tile& t) { slide_block<Dual, Signed, false>(t); });
}

// Any taps: groups of G pixels by pointers, one output at a time.
template <bool Signed, bool Raw> void taps_block(const DepthwiseS8Tile& t) {
  const Requantize requantize(t);
  const Place place(t, 1);
  const char* const* pixel = t.pixel;
  alignas(64) char group[4 * BLOCK];
  for (int64_t n = 0; n < t.count; ++n) {
    vi acc[4];
  PC_UNROLL for (int q = 0; q < 4; ++q) acc[q] = vi_load(t.start + q * VL);
    const uint8_t* w = (const uint8_t*)t.w;
    for (int64_t i = 0; i < t.taps; i += G, pixel += G, w += 4 * BLOCK) {
      vi x[G];
      PC_UNROLL for (int g = 0; g < G; ++g) x[g] = load<false, Signed>(pixel[g] + t.offset, nullptr);
      store_group(group, pair_of(x[0], x[1]), pair_of(x[G - 2], x[G - 1]));
      PC_UNROLL for (int q = 0; q < 4; ++q) acc[q] = dot(acc[q], ((const vi*)group)[q], vi_load((const int32_t*)(w + q * BLOCK)));
    }
    if constexpr (Raw) {
      PC_UNROLL for (int q = 0; q < 4; ++q) place.store_raw(t.raw + n * BLOCK, 0, 0, acc[q], q);
    } else {
      vi p[4];
      PC_UNROLL for (int q = 0; q < 4; ++q) p[q] = requantize.levels(acc[q], vf_load(t.mult + q * VL));
      place.store(t.y + n * t.y_pixel, 0, 0, requantize.bytes(requantize.words(p[0], p[1]), requantize.words(p[2], p[3])));
    }
  }
}

template <bool Signed, bool Raw> void taps(const DepthwiseS8Tile& given) {
  for_blocks(given, [](const DepthwiseS8Tile& t) { taps_block<Signed, Raw>(t); });
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
  const int slide = kh == kw && kh == 3 && slides(3, 2) ? kSlideGroups : 0;
  return (size_t)(groups_of(kh * kw) + variants * kh + slide) * 4 * BLOCK;
}

// What tiles of a shape read: [column][variant].
template <int K> uint8_t* pack_shape(const Source& w, uint8_t* to) {
  constexpr Variants all = variants_of(K);
  for (int kx = 0; kx < K; ++kx)
    for (int n = 0; n < all.count; ++n)
      to = pack_group(w, to, [&](int s) {
        const int tap = all.v[n].shift + s;
        return tap >= all.v[n].from && tap >= 0 && tap < K ? tap * K + kx : -1;
      });
  return to;
}

// Behind that, or alone, what taps() reads.
void pack_block(const int8_t* w, int channels, bool dual, int64_t kh, int64_t kw, void* block) {
  const Source source{w, channels, dual, kh * kw};
  uint8_t* to = (uint8_t*)block;
  if (kh == kw && kh == 3) to = pack_shape<3>(source, to);
  for (int g = 0; kh == kw && kh == 3 && slides(3, 2) && g < kSlideGroups; ++g)
    to = pack_group(source, to, [&](int s) { return g % 2 == 0 ? g / 2 * 3 + s : s == 0 ? g / 2 * 3 + 2 : -1; });
  if (kh == kw && kh == 5) to = pack_shape<5>(source, to);
  for (int64_t g = 0; g < groups_of(kh * kw); ++g) to = pack_group(source, to, [&](int s) { return g * G + s < kh * kw ? g * G + s : -1; });
}

size_t taps_offset(int64_t kh, int64_t kw) { return block_bytes(kh, kw) - (size_t)groups_of(kh * kw) * 4 * BLOCK; }

void order(const void* natural, int n, bool dual, void* ordered) {
  int32_t values[BLOCK];
  const int32_t* from = (const int32_t*)natural;
  if (n < BLOCK) {
    memset(values, 0, sizeof values);
    memcpy(values, natural, (size_t)n * 4);
    if (dual) memcpy(values + BLOCK / 2, natural, (size_t)n * 4);
    from = values;
  }
  for (int q = 0; q < 4; ++q)
    for (int l = 0; l < QUARTERS; ++l) memcpy((int32_t*)ordered + q * VL + 4 * l, from + 16 * l + 4 * q, 16);
}

template <int K, int S> constexpr DepthwiseS8Shape shape() {
  if constexpr (slides(K, S))
    return {K, S, R, {{slide_strip<false, false>, slide_strip<false, true>}, {slide_strip<true, false>, slide_strip<true, true>}}};
  else
    return {K, S, R, {{strip<K, S, false, false>, strip<K, S, false, true>}, {strip<K, S, true, false>, strip<K, S, true, true>}}};
}

}  // namespace

extern const DepthwiseS8Kernel depthwise_s8;
constexpr DepthwiseS8Kernel depthwise_s8 = {"depthwise_s8/" PC_ISA_NAME,
                                            BLOCK,
                                            G,
                                            {shape<3, 1>(), shape<3, 2>(), shape<5, 1>(), shape<5, 2>()},
                                            {{taps<false, false>, taps<true, false>}, {taps<false, true>, taps<true, true>}},
                                            block_bytes,
                                            taps_offset,
                                            pack_block,
                                            order,
                                            {finish<ToS32>, finish<ToF32>, finish<ToQ8>}};

}  // namespace PC_NS
}  // namespace pc
