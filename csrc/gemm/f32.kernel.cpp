// float32 GEMM by packed panels of float32, and how a float32 weight is packed: f32_tile.h has the tile.
#include "gemm/f32_tile.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int PREFETCH = 128;  // floats ahead

// The last inputs of a panel of rows of w, fewer than VL, or of a panel of fewer outputs.
void pack_edge(const float* w, int64_t ldn, int columns, int64_t j, int rest, float* panel) {
  for (int v = 0; v < NV; ++v) {
    vf square[VL];
  PC_UNROLL for (int i = 0; i < VL; ++i) square[i] = v * VL + i < columns ? vf_loadn(w + (v * VL + i) * ldn + j, rest) : vf_zero();
    vf_transpose(square);
    PC_UNROLL for (int i = 0; i < VL; ++i)
      if (i < rest) vf_store(panel + (j + i) * NR + v * VL, square[i]);
  }
}

// VL rows of w as VL columns of a panel.
void pack_rows(const float* w, int64_t ldn, int64_t k, float* panel) {
  const int64_t ld3 = 3 * ldn;
  const float* at[(VL + 3) / 4];  // every 4th row: the others are where an address can reach from there
  PC_UNROLL for (int i = 0; i < (VL + 3) / 4; ++i) at[i] = w + 4 * i * ldn;
  const auto row = [&](int i) {
    const float* p = at[i / 4];
    return i % 4 == 0 ? p : i % 4 == 1 ? p + ldn : i % 4 == 2 ? p + 2 * ldn : p + ld3;
  };
  for (int64_t j = 0; j < k; j += VL) {
    // No hardware follows that many rows at once. A prefetch beyond the array does nothing.
    PC_UNROLL for (int i = 0; i < VL; ++i) prefetch(row(i) + PREFETCH);
    vf square[VL];
    vf_load_columns(row, square);
    PC_UNROLL for (int i = 0; i < VL; ++i) vf_store(panel + (j + i) * NR, square[i]);
    PC_UNROLL for (int i = 0; i < (VL + 3) / 4; ++i) at[i] += VL;
  }
}

void pack_panel(const void* weight, int64_t ldn, int64_t ldk, int columns, int64_t k, void* packed) {
  const float* w = (const float*)weight;
  float* panel = (float*)packed;
  int64_t j = 0;
  if (ldk == 1) {
    const int64_t whole = columns == NR ? k / VL * VL : 0;
    for (int v = 0; whole && v < NV; ++v) pack_rows(w + v * VL * ldn, ldn, whole, panel + v * VL);
    j = whole;
    for (; j < k; j += VL) pack_edge(w, ldn, columns, j, k - j < VL ? (int)(k - j) : VL, panel);
  } else if (columns == NR && ldn == 1) {  // columns of w: they are the panel's rows already
    for (; j < k; ++j)
      for (int v = 0; v < NV; ++v) vf_store(panel + j * NR + v * VL, vf_load(w + j * ldk + v * VL));
  }
  for (; j < k; ++j)
    for (int i = 0; i < NR; ++i) panel[j * NR + i] = i < columns ? w[i * ldn + j * ldk] : 0.0f;
}

constexpr GemmF32Kernel make() {
  GemmF32Kernel kernel{"gemm_f32/" PC_ISA_NAME, MR, NR, sizeof(float), {}, {}, {}, pack_panel};
  fill<float, MR>(&kernel);
  return kernel;
}

}  // namespace

extern const GemmF32Kernel gemm_f32;
constexpr GemmF32Kernel gemm_f32 = make();

}  // namespace PC_NS
}  // namespace pc
