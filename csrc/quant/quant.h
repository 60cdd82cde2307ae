// What the kernels of one ISA offer for quantization, and the activations that are no clamp. Quantization works on a contiguous run of values and
// touches nothing beyond it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pc {

// `rows` rows of `count` values, ld elements apart.
struct FloatSpan {
  const float* x;
  int64_t ld, rows, count;
};

// The multipliers and starts of `count` outputs of an integer product, as docs/exactness.md defines its last step.
struct Requantization {
  const float* scale;  // of the weight
  const int32_t* sum;  // of the weight's values
  const float* bias;   // or nullptr
  int64_t count;
  float x_scale, y_scale;  // y_scale 1: mult is the scale of the sums
  int32_t x_zero_point;
  float most;  // |sums| are at most that
  float* mult;
  int32_t* bias_q;
  int32_t* start;  // - x_zero_point * sum + bias_q, wrapping
};

struct QuantKernel {
  const char* name;
  // Range of x[count] with 0 included; false when x holds NaN or infinity.
  bool (*range)(const float* x, int64_t count, float* low, float* high);
  // The same of each row; false when one of them holds NaN or infinity.
  bool (*row_ranges)(const FloatSpan& x, float* low, float* high);
  // y = clip(rint(x / scale) + zero_point, low, high); false when x holds NaN.
  bool (*quantize)(const float* x, int64_t count, float scale, int32_t zero_point, int32_t low, int32_t high, void* y);
  // Scale, zero point (uint8) and 1 / scale of `count` ranges, each of a row, as docs/exactness.md defines them. False when the width of one
  // is not finite.
  bool (*row_qparams)(const float* low, const float* high, int64_t count, float* scale, int32_t* zero_point, float* inverse_scale);
  // y = clip(rint(x * inverse_scale) + zero_point, 0, 255). False when x holds NaN; `finite` says that x is finite and within the range that gave
  // the scale, so that nothing needs to be looked at.
  bool (*quantize_row)(const float* x, int64_t count, float inverse_scale, int32_t zero_point, bool finite, uint8_t* y);
  // Each row by its own scale and zero point, ldy bytes from row to row.
  bool (*quantize_rows)(const FloatSpan& x, const float* inverse_scale, const int32_t* zero_point, bool finite, void* y, ptrdiff_t ldy);
  // The same with zero_point taken off again, as int16: what kernels for vpmaddwd multiply.
  bool (*quantize_rows_centered)(const FloatSpan& x, const float* inverse_scale, const int32_t* zero_point, bool finite, void* y, ptrdiff_t ldy);
  void (*dequantize_u8)(const uint8_t* x, int64_t count, float scale, int32_t zero_point, float* y);
  void (*dequantize_s8)(const int8_t* x, int64_t count, float scale, int32_t zero_point, float* y);
  void (*dequantize_s32)(const int32_t* x, int64_t count, float scale, int32_t zero_point, float* y);
  // False when a mult is not finite or a bias can't be quantized. *safe: no sum with its bias leaves int32, nor does it times mult.
  bool (*requantization)(const Requantization& r, bool* safe);
};

struct ActivationKernel {
  const char* name;
  // hardswish, silu or gelu (a pc_activation) in place, on a tile whose rows are ldx elements apart.
  void (*in_place)(int32_t activation, float* x, int64_t rows, int64_t columns, int64_t ldx);
};

}  // namespace pc
