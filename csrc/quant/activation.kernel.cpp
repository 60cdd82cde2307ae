// hardswish, silu and gelu over simd/, as docs/exactness.md writes them down, operation by operation.
//
// One vector's chain is up to 130 cycles long and its 70 instructions fill a third of the window, so WIDE vectors go side by side, interleaved
// operation by operation. Bound: multiplications and additions, which are not contracted: the bits are the same with and without FMA.
#include "pycompress.h"
#include "quant/quant.h"
#include "simd/simd.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int WIDE = VL == 16 ? 6 : VL == 8 ? 4 : 1;

struct Wide {
  vf v[WIDE];
};

template <class F> PC_INLINE Wide each(F f) {
  Wide r;
  PC_UNROLL for (int i = 0; i < WIDE; ++i) r.v[i] = f(i);
  return r;
}

#define PC_EACH(expression) each([&](int i) __attribute__((always_inline)) { return expression; })
PC_INLINE Wide operator-(const Wide& a, const Wide& b) { return PC_EACH(vf_sub(a.v[i], b.v[i])); }
PC_INLINE Wide operator*(const Wide& a, const Wide& b) { return PC_EACH(vf_mul(a.v[i], b.v[i])); }
PC_INLINE Wide operator/(const Wide& a, const Wide& b) { return PC_EACH(vf_div(a.v[i], b.v[i])); }
PC_INLINE Wide operator+(const Wide& a, float b) { return PC_EACH(vf_add(a.v[i], vf_set1(b))); }
PC_INLINE Wide operator*(const Wide& a, float b) { return PC_EACH(vf_mul(a.v[i], vf_set1(b))); }
PC_INLINE Wide operator/(const Wide& a, float b) { return PC_EACH(vf_div(a.v[i], vf_set1(b))); }
PC_INLINE Wide max(const Wide& a, const Wide& b) { return PC_EACH(vf_max(a.v[i], b.v[i])); }
PC_INLINE Wide max(const Wide& a, float b) { return PC_EACH(vf_max(a.v[i], vf_set1(b))); }
PC_INLINE Wide min(const Wide& a, float b) { return PC_EACH(vf_min(a.v[i], vf_set1(b))); }
PC_INLINE Wide abs(const Wide& a) { return PC_EACH(vf_abs(a.v[i])); }
PC_INLINE Wide minus(const Wide& a) { return PC_EACH(vf_sub(vf_zero(), a.v[i])); }
PC_INLINE Wide round(const Wide& a) { return PC_EACH(vf_round(a.v[i])); }
PC_INLINE Wide pow2(const Wide& n) { return PC_EACH(vf_pow2(vi_from_vf(n.v[i]))); }
PC_INLINE Wide select_lt(const Wide& a, float b, const Wide& yes, const Wide& no) {
  return PC_EACH(vf_select_lt(a.v[i], vf_set1(b), yes.v[i], no.v[i]));
}
PC_INLINE Wide all(float x) { return PC_EACH((void(i), vf_set1(x))); }
#undef PC_EACH

template <int N> PC_INLINE Wide horner(const Wide& x, const float (&c)[N]) {
  Wide r = all(c[N - 1]);
  PC_UNROLL for (int i = N - 2; i >= 0; --i) r = r * x + c[i];
  return r;
}

// exp of x <= 0: 2^n * E(r), Cody and Waite's reduction.
PC_INLINE Wide exp_nonpositive(const Wide& x) {
  constexpr float e[] = {1.0f, 1.0f, 0.499999911f, 0.166664213f, 0.0416683592f, 0.0083747711f, 0.00138294208f};
  const Wide c = max(x, -87.0f);
  const Wide n = round(c * 1.44269504f);
  const Wide r = (c - n * 0.693359375f) - n * -2.12194440e-4f;
  return select_lt(x, -87.0f, all(0.0f), horner(r, e) * pow2(n));
}

PC_INLINE Wide hardswish(const Wide& y) { return (y * min(max(y + 3.0f, 0.0f), 6.0f)) / 6.0f; }

PC_INLINE Wide silu(const Wide& y) {
  const Wide e = exp_nonpositive(minus(abs(y)));
  return y * (select_lt(y, 0.0f, e, all(1.0f)) / (e + 1.0f));
}

PC_INLINE Wide gelu(const Wide& y) {
  constexpr float g[] = {1.1283803f,      0.636573851f,     0.103085764f,   -0.0199528635f,   0.000870852557f,
                         0.000938040554f, -0.00034720049f,  6.11964715e-05f, -5.67972938e-06f, 2.2165041e-07f};
  const Wide z = abs(y) * 0.70710678f, c = min(z, 5.0f);
  const Wide t = max(horner(c, g) * c, z * z);
  const Wide ye = y * (exp_nonpositive(minus(t)) * 0.5f);
  return select_lt(y, 0.0f, ye, y - ye);
}

// A vector of the tile: the first n lanes at p.
struct Place {
  float* p;
  int n;
};

template <class F> PC_INLINE void for_tile(float* x, int64_t rows, int64_t columns, int64_t ldx, F f) {
  Place places[WIDE];
  int count = 0;
  const auto flush = [&]() __attribute__((always_inline)) {
    for (int i = count; i < WIDE; ++i) places[i] = {x, 0};
    Wide y;
    PC_UNROLL for (int i = 0; i < WIDE; ++i) y.v[i] = places[i].n == VL ? vf_load(places[i].p) : vf_loadn(places[i].p, places[i].n);
    y = f(y);
    PC_UNROLL for (int i = 0; i < WIDE; ++i) {
      if (places[i].n == VL)
        vf_store(places[i].p, y.v[i]);
      else
        vf_storen(places[i].p, y.v[i], places[i].n);
    }
    count = 0;
  };
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < columns; i += VL) {
      places[count++] = {x + r * ldx + i, columns - i < VL ? (int)(columns - i) : VL};
      if (count == WIDE) flush();
    }
  if (count > 0) flush();
}

void in_place(int32_t activation, float* x, int64_t rows, int64_t columns, int64_t ldx) {
  if (activation == PC_ACTIVATION_HARDSWISH)
    for_tile(x, rows, columns, ldx, [](const Wide& y) __attribute__((always_inline)) { return hardswish(y); });
  if (activation == PC_ACTIVATION_SILU)
    for_tile(x, rows, columns, ldx, [](const Wide& y) __attribute__((always_inline)) { return silu(y); });
  if (activation == PC_ACTIVATION_GELU)
    for_tile(x, rows, columns, ldx, [](const Wide& y) __attribute__((always_inline)) { return gelu(y); });
}

}  // namespace

extern const ActivationKernel activation;
const ActivationKernel activation = {"activation/" PC_ISA_NAME, in_place};

}  // namespace PC_NS
}  // namespace pc
