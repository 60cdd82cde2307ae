// Pooling and addition of NHWC images.
//
// Idea: channels lie side by side, so a window is reduced for BLOCK channels at a time in registers, pixel after pixel, and each pixel is read
// once. The reductions are plain loops of fixed length, which compilers turn into byte maxima and widening additions; the last step is written
// over simd/, since its rounding has to be one instruction. Bound: loads; a window's pixels come from L1 or L2.
#include "pool/pool.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int BLOCK = 64;

template <class T> struct Lowest;
template <> struct Lowest<uint8_t> {
  static constexpr uint8_t value = 0;
};
template <> struct Lowest<int8_t> {
  static constexpr int8_t value = -128;
};
template <> struct Lowest<float> {
  static constexpr float value = -__builtin_inff();
};

template <class T> PC_INLINE T larger(T m, T x) { return x > m || x != x ? x : m; }  // NaN stays

// Calls body(c, n) for blocks of channels: n is the constant BLOCK but for the last.
template <class Body> PC_INLINE void for_blocks(int64_t channels, Body body) {
  int64_t c = 0;
  for (; c + BLOCK <= channels; c += BLOCK) body(c, BLOCK);
  if (c < channels) body(c, (int)(channels - c));
}

// Calls pixel(p) for the window's pixels, p at channel c.
template <class T, class Pixel> PC_INLINE void for_pixels(const Window& w, int64_t c, Pixel pixel) {
  const char* row = (const char*)w.x + c * (int64_t)sizeof(T);
  for (int64_t i = 0; i < w.rows; ++i, row += w.row_stride) {
    const char* p = row;
    for (int64_t j = 0; j < w.columns; ++j, p += w.column_stride) pixel((const T*)p);
  }
}

template <class T> void max_of(const Window& w, T* y) {
  for_blocks(w.channels, [&](int64_t c, int n) __attribute__((always_inline)) {
    T m[BLOCK];
    for (int i = 0; i < BLOCK; ++i) m[i] = Lowest<T>::value;
    for_pixels<T>(w, c, [&](const T* p) __attribute__((always_inline)) {
      if (n == BLOCK)
        for (int i = 0; i < BLOCK; ++i) m[i] = larger(m[i], p[i]);
      else
        for (int i = 0; i < n; ++i) m[i] = larger(m[i], p[i]);
    });
    memcpy(y + c, m, sizeof(T) * (size_t)n);
  });
}

template <class T, class S> PC_INLINE void add_up(const Window& w, int64_t c, int n, S (&sum)[BLOCK]) {
  for (int i = 0; i < BLOCK; ++i) sum[i] = 0;
  for_pixels<T>(w, c, [&](const T* p) __attribute__((always_inline)) {
    if (n == BLOCK)
      for (int i = 0; i < BLOCK; ++i) sum[i] += p[i];
    else
      for (int i = 0; i < n; ++i) sum[i] += p[i];
  });
}

void average_f32(const Window& w, float count, float* y) {
  for_blocks(w.channels, [&](int64_t c, int n) __attribute__((always_inline)) {
    float sum[BLOCK];
    add_up<float>(w, c, n, sum);
    for (int i = 0; i < n; ++i) y[c + i] = sum[i] / count;
  });
}

PC_INLINE void put(float* y, vf value, int n) { vf_storen(y, value, n); }
template <class T> PC_INLINE void put(T* y, vi value, int n) { vi_store_8n(y, value, n); }

// The last step of both: `value` in float32, or rounded into its bounds.
template <class S> PC_INLINE void finish(float* y, vf value, const S&, int n) { put(y, value, n); }
template <class T, class S> PC_INLINE void finish(T* y, vf value, const S& s, int n) {
  put(y, vi_add(vi_from_vf(vf_min(vf_max(value, vf_set1(s.low)), vf_set1(s.high))), vi_set1(s.zero_point)), n);
}

template <class T, class Y> void average_8(const Window& w, const Average& s, Y* y) {
  const vi offset = vi_set1(s.offset);
  const vf scale = vf_set1(s.scale);
  for_blocks(w.channels, [&](int64_t c, int n) __attribute__((always_inline)) {
    int32_t sum[BLOCK];
    add_up<T>(w, c, n, sum);
    for (int i = 0; i < n; i += VL) finish(y + c + i, vf_mul(vf_from_vi(vi_add(vi_load(sum + i), offset)), scale), s, n - i < VL ? n - i : VL);
  });
}

void add_f32(const float* a, const float* b, int64_t count, float low, float high, float* y) {
  const vf lo = vf_set1(low), hi = vf_set1(high);
  for (int64_t i = 0; i < count; i += VL) {
    const int n = count - i < VL ? (int)(count - i) : VL;
    const vf sum = vf_add(vf_loadn(a + i, n), vf_loadn(b + i, n));
    vf_storen(y + i, vf_min(hi, vf_max(lo, sum)), n);
  }
}

PC_INLINE vi widened(const uint8_t* p) { return vi_load_u8(p); }
PC_INLINE vi widened(const int8_t* p) { return vi_load_s8(p); }

template <class T, class Y> void add_8(const T* a, const T* b, int64_t count, const Sum& s, Y* y) {
  const vi a_zero = vi_set1(s.a_zero_point), b_zero = vi_set1(s.b_zero_point);
  const vf a_ratio = vf_set1(s.a_ratio), b_ratio = vf_set1(s.b_ratio);
  const auto one = [&](const T* pa, const T* pb, Y* py, int n) __attribute__((always_inline)) {
    const vf fa = vf_mul(vf_from_vi(vi_sub(widened(pa), a_zero)), a_ratio);
    const vf fb = vf_mul(vf_from_vi(vi_sub(widened(pb), b_zero)), b_ratio);
    finish(py, vf_add(fa, fb), s, n);
  };
  int64_t i = 0;
  for (; i + VL <= count; i += VL) one(a + i, b + i, y + i, VL);
  if (i < count) {
    const int n = (int)(count - i);
    T rest[2][VL] = {};
    memcpy(rest[0], a + i, (size_t)n);
    memcpy(rest[1], b + i, (size_t)n);
    one(rest[0], rest[1], y + i, n);
  }
}

}  // namespace

extern const PoolKernel pool;
const PoolKernel pool = {
    "pool/" PC_ISA_NAME,
    max_of<uint8_t>,
    max_of<int8_t>,
    max_of<float>,
    average_f32,
    average_8<uint8_t, uint8_t>,
    average_8<int8_t, int8_t>,
    average_8<uint8_t, float>,
    average_8<int8_t, float>,
    add_f32,
    add_8<uint8_t, uint8_t>,
    add_8<int8_t, int8_t>,
    add_8<uint8_t, float>,
    add_8<int8_t, float>,
};

}  // namespace PC_NS
}  // namespace pc
