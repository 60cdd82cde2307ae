// int8 GEMM by vpdpbusd, which adds the 4 products of a lane exactly. Tile and bound: s8_quads.h.
#include "gemm/s8_quads.h"

namespace pc {
namespace PC_NS {

extern const GemmS8Kernel gemm_s8;
constexpr GemmS8Kernel gemm_s8 = quads<false>("gemm_s8/" PC_ISA_NAME);

}  // namespace PC_NS
}  // namespace pc
