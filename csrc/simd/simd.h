// One small vocabulary for every instruction set. A kernel file is compiled once for each ISA that kernels.inc names for it, with
// PC_NS the ISA's namespace; it includes this header and sees only that ISA's types and functions.
//
//   VL                        lanes of a float32 or int32 vector
//   vf, vi                    vectors of VL float32, VL int32
//   vf_loadn, vf_storen ...   the first n lanes (0 <= n <= VL), touching no memory beyond them; other lanes load as 0
//   vf_min, vf_max(a, b)      b when either is NaN, as the x86 instructions do it
//   vf_muladd(a, b, c)        a * b + c, fused where the ISA has it: for the float32 GEMM alone
//   vf_any_nan(x)             whether a lane is NaN
//   vf_fold(r, op)            lane i is op over the lanes of r[i], of VL vectors, in some order
//   vi_from_vf                round half to even; lanes must be below 2^31, those below -2^31 become that
//   vi_bits(x), vf_bits(x)    the same bits as the other type
//   vi_store_u8x4(p, q)       4 vectors as bytes, clipped to uint8
//   vb_clip(q, vb_range(z, low, high, flip))   4 vectors as 4 * VL bytes, clip(q + z, low, high) ^ flip, their order kept; q may be any int32, z
//                             is 0 to 255
//   vb_store<V>(p, b, i)      bytes of V vectors, from vector i * V on; vb_storen<V>(p, b, i, n) the first n of them
//   vi_store_16x2(p, a, b)    2 vectors as int16; lanes must be within it
//   vi_dot2(c, a, b)          c += sum of 2 products int16 x int16 per lane
//   vf_transpose(r)           r[j][i] = r[i][j] of VL vectors
//   vf_load_columns(row, r)   r[j][i] = row(i)[j] of VL rows in memory
//   vf_load_half(p)           VL float16 as float32, exact
//   pin(x)                    x stays in a register here, and work is not moved across: GCC otherwise spills accumulators
//   vi_dot4(c, a, b)          c += sum of 4 products uint8 x int8 per lane; exact with VNNI, without it where neighbours stay within int16
//   vi_low_nibbles(x), vi_high_nibbles(x)   the halves of each byte, 0 to 15; vi_top_nibbles(x)   the high ones where they stand: 16 times that
//   vi_sixteenth(x)           x >> 4
//   vi_load_u16(p)            VL uint16 as int32
//   vi_madd_16(a, b)          sum of 2 products int16 x int16 per lane
//   vi_parts(x)               x & 127 and x >> 7 as the two int16 of a lane; with z and 128 * z, vi_madd_16 gives x * z where z fits int16 / 128
//
// Kernel files include no standard header with inline functions: the linker could take the copy compiled here, with raised
// flags, for the whole program. Everything is static or in PC_NS.
#pragma once

#include <stdint.h>
#include <string.h>

#ifndef PC_NS
#error "compile kernel files through pycompress_add_kernels() of cmake/kernels.cmake, which sets PC_NS"
#endif

#if defined(__GNUC__)
#define PC_INLINE static inline __attribute__((always_inline))
#define PC_INLINE_MEMBER inline __attribute__((always_inline))
#define PC_NOINLINE static __attribute__((noinline))
#define PC_UNROLL _Pragma("GCC unroll 16")
#if defined(__clang__)  // takes an odd iteration out before the loop, and then spills in it
#define PC_UNROLL_2 _Pragma("GCC unroll 1")
#else
#define PC_UNROLL_2 _Pragma("GCC unroll 2")
#endif
#else
#define PC_INLINE static __forceinline
#define PC_INLINE_MEMBER __forceinline
#define PC_NOINLINE static __declspec(noinline)
#define PC_UNROLL
#define PC_UNROLL_2
#endif

#if defined(__GNUC__)
#define prefetch(address) __builtin_prefetch(address)
#else
#define prefetch(address) ((void)0)
#endif

namespace pc {
namespace PC_NS {

// What F16C does. A normal number: the exponent moves from bias 15 to 127. A subnormal one is its 10 bits times 2^-24.
PC_INLINE float float_of_half(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
  uint32_t bits = sign | (exponent == 31 ? 0x7f800000u | (mantissa ? 0x400000u : 0) : (exponent + 112) << 23) | mantissa << 13;
  float x;
  if (exponent == 0) {
    x = (float)mantissa * 0x1p-24f;
    memcpy(&bits, &x, 4);
    bits |= sign;
  }
  memcpy(&x, &bits, 4);
  return x;
}

}  // namespace PC_NS
}  // namespace pc

// An array behind this pointer stays in memory: GCC otherwise makes registers of it, and spills those that a loop needs.
#if defined(__GNUC__)
template <class T> PC_INLINE void keep_in_memory(T*& p) { __asm__ volatile("" : "+r"(p) : : "memory"); }
#else
template <class T> PC_INLINE void keep_in_memory(T*&) {}
#endif

#if defined(PC_ISA_AVX512VNNI)
#include "simd/avx512.h"
#elif defined(PC_ISA_AVX2) || defined(PC_ISA_AVXVNNI)
#include "simd/avx2.h"
#else
#include "simd/scalar.h"
#endif
