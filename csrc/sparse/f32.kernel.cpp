// Sparse float32: one multiply-add for a weight and a vector of rows, over k in order, so that an output's bits do not depend on the rows
// beside it. panel.h has the tiles.
#include "sparse/few.h"

namespace pc {
namespace PC_NS {
namespace {

struct MultiplyAdd {
  typedef vf Vector;
  typedef vf Weight;
  typedef vf Rows;
  static constexpr int kShared = 3;  // vectors of AVX2 by 4 outputs
  static constexpr bool kFillsUp = true;
  static PC_INLINE_MEMBER vf zero() { return vf_zero(); }
  static PC_INLINE_MEMBER vf weight(const uint32_t* w) {
    float value;
    memcpy(&value, w, 4);
    return vf_set1(value);
  }
  static PC_INLINE_MEMBER vf rows(const char* x) { return vf_load((const float*)x); }
  static PC_INLINE_MEMBER vf rows(vi x) { return vf_bits(x); }
  static PC_INLINE_MEMBER vf multiply(vf acc, vf x, vf w) { return vf_muladd(x, w, acc); }
  static PC_INLINE_MEMBER vf multiply(vf acc, const char* x, vf w) { return multiply(acc, rows(x), w); }
};

struct Float {
  static constexpr int kSize = 4;
  vf low, high, bias;
  bool with_bias;
  explicit PC_INLINE_MEMBER Float(const S8Tile& t) : low(vf_set1(t.low)), high(vf_set1(t.high)), bias(vf_zero()), with_bias(t.bias != nullptr) {}
  PC_INLINE_MEMBER void outputs(const S8Tile& t, int c) {
    if (with_bias) bias = vf_load(t.bias + c);
  }
  PC_INLINE_MEMBER void output(const S8Tile& t, int i) {
    if (with_bias) bias = vf_set1(t.bias[i]);
  }
  PC_INLINE_MEMBER void row(const S8Tile&, int) {}
  PC_INLINE_MEMBER void rows(const S8Tile&, int) {}
  PC_INLINE_MEMBER void put(char* y, vf value, int n) {
    if (with_bias) value = vf_add(value, bias);
    value = vf_min(high, vf_max(low, value));
    if (n == VL)
      vf_store((float*)y, value);
    else
      vf_storen((float*)y, value, n);
  }
};

}  // namespace

extern const SparseF32Kernel sparse_f32;
const SparseF32Kernel sparse_f32 = {
    "sparse_f32/" PC_ISA_NAME,
    VL,
    {multiply<MultiplyAdd, 1>, multiply<MultiplyAdd, kSparseShared>},
    {{few<MultiplyAdd, FloatSums, 1>, few<MultiplyAdd, FloatSums, kSparseShared>}, {VL == 16 ? 3 : 2, 3}, 0, POSITIONS},
    finish<Float>,
    largest,
    transpose,
};

}  // namespace PC_NS
}  // namespace pc
