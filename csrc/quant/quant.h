// What a quantization kernel of one ISA offers. Everything works on a contiguous run of values and touches nothing beyond it.
#pragma once

#include <cstdint>

namespace pc {

struct QuantKernel {
  const char* name;
  // Range of x[count] with 0 included; false when x holds NaN or infinity.
  bool (*range)(const float* x, int64_t count, float* low, float* high);
  // y = clip(rint(x / scale) + zero_point, low, high); false when x holds NaN.
  bool (*quantize)(const float* x, int64_t count, float scale, int32_t zero_point, int32_t low, int32_t high, void* y);
  // The same with x * inverse_scale.
  bool (*quantize_by_inverse)(const float* x, int64_t count, float inverse_scale, int32_t zero_point, int32_t low, int32_t high, void* y);
  // The same with zero_point taken off again, as int16: what kernels for vpmaddwd multiply.
  bool (*quantize_centered)(const float* x, int64_t count, float inverse_scale, int32_t zero_point, int16_t* y);
  void (*dequantize_u8)(const uint8_t* x, int64_t count, float scale, int32_t zero_point, float* y);
  void (*dequantize_s8)(const int8_t* x, int64_t count, float scale, int32_t zero_point, float* y);
  void (*dequantize_s32)(const int32_t* x, int64_t count, float scale, int32_t zero_point, float* y);
  // hardswish, silu or gelu in place (a pc_activation).
  void (*activate)(int32_t activation, float* x, int64_t count);
};

// scale and zero point (uint8) of a range, as docs/exactness.md defines them. by_inverse: for quantize_by_inverse, where a scale whose
// inverse is not finite counts as a range of zero. False when the width of the range is not finite.
bool dynamic_qparams(float low, float high, bool by_inverse, float* scale, int32_t* zero_point);

}  // namespace pc
