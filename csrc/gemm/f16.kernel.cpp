// float32 GEMM by packed panels of float16: half the bytes to read, the bits of the float32 kernel. f32_tile.h has the tile.
//
// A tile converts its weight as it loads it: 2 conversions for up to 24 multiply-adds, on ports that these leave free.
#include "gemm/f32_tile.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int64_t SQUARE = 32;  // inputs at a time: a line of each row

void pack_panel(const void* weight, int64_t ldn, int64_t ldk, int columns, int64_t k, void* packed) {
  const uint16_t* w = (const uint16_t*)weight;
  uint16_t* panel = (uint16_t*)packed;
  for (int64_t first = 0; first < k; first += SQUARE) {
    const int64_t end = first + SQUARE < k ? first + SQUARE : k;
    for (int i = 0; i < NR; ++i)
      for (int64_t j = first; j < end; ++j) panel[j * NR + i] = i < columns ? w[i * ldn + j * ldk] : (uint16_t)0;
  }
}

constexpr GemmF32Kernel make() {
  GemmF32Kernel kernel{"gemm_f16/" PC_ISA_NAME, MR, NR, sizeof(uint16_t), {}, {}, {}, pack_panel};
  fill<uint16_t, MR>(&kernel);
  return kernel;
}

}  // namespace

extern const GemmF32Kernel gemm_f16;
constexpr GemmF32Kernel gemm_f16 = make();

}  // namespace PC_NS
}  // namespace pc
