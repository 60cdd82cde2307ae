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

void pack_panel(const void* weight, int64_t ldn, int64_t ldk, int columns, int64_t k, void* packed) {
  const float* w = (const float*)weight;
  float* panel = (float*)packed;
  int64_t j = 0;
  if (ldk == 1) {
    for (; columns == NR && j + VL <= k; j += VL) {
      // No hardware follows that many rows at once. A prefetch beyond the array does nothing.
      for (int i = 0; i < NR; ++i) prefetch(w + i * ldn + j + PREFETCH);
      PC_UNROLL for (int v = 0; v < NV; ++v) {
        vf square[VL];
        vf_load_columns([&](int i) { return w + (v * VL + i) * ldn + j; }, square);
        PC_UNROLL for (int i = 0; i < VL; ++i) vf_store(panel + (j + i) * NR + v * VL, square[i]);
      }
    }
    for (; j < k; j += VL) pack_edge(w, ldn, columns, j, k - j < VL ? (int)(k - j) : VL, panel);
  } else if (columns == NR && ldn == 1) {  // columns of w: they are the panel's rows already
    for (; j < k; ++j)
      for (int v = 0; v < NV; ++v) vf_store(panel + j * NR + v * VL, vf_load(w + j * ldk + v * VL));
  }
  for (; j < k; ++j)
    for (int i = 0; i < NR; ++i) panel[j * NR + i] = i < columns ? w[i * ldn + j * ldk] : 0.0f;
}

constexpr GemmF32Kernel make() {
  GemmF32Kernel kernel{"gemm_f32/" PC_ISA_NAME, MR, NR, sizeof(float), {}, {}, {}, pack_panel, nullptr};
  fill<float, MR>(&kernel);
  return kernel;
}

}  // namespace

extern const GemmF32Kernel gemm_f32;
constexpr GemmF32Kernel gemm_f32 = make();

}  // namespace PC_NS
}  // namespace pc
