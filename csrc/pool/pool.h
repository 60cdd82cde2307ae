// What the pooling family's kernel of one ISA offers: windows of an NHWC image, channel by channel, and sums of two images.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pc {

// The pixels under a window that lie in the image: rows x columns of them, each `channels` values.
struct Window {
  const void* x;                        // the first
  ptrdiff_t row_stride, column_stride;  // bytes
  int64_t rows, columns, channels;
};

// y = clip(rint(f32(sum + offset) * scale), low, high) + zero_point; or in float32 without the rounding.
struct Average {
  int32_t offset;
  float scale;
  float low, high;  // less zero_point
  int32_t zero_point;
};

// y = clip(rint(f32(a - a_zero_point) * a_ratio + f32(b - b_zero_point) * b_ratio), low, high) + zero_point; or in float32 without rounding.
struct Sum {
  int32_t a_zero_point, b_zero_point;
  float a_ratio, b_ratio;
  float low, high;  // less zero_point
  int32_t zero_point;
};

struct PoolKernel {
  const char* name;
  void (*max_u8)(const Window&, uint8_t* y);
  void (*max_s8)(const Window&, int8_t* y);
  void (*max_f32)(const Window&, float* y);
  void (*average_f32)(const Window&, float count, float* y);
  void (*average_u8)(const Window&, const Average&, uint8_t* y);
  void (*average_s8)(const Window&, const Average&, int8_t* y);
  void (*average_u8_f32)(const Window&, const Average&, float* y);
  void (*average_s8_f32)(const Window&, const Average&, float* y);
  void (*add_f32)(const float* a, const float* b, int64_t count, float low, float high, float* y);
  void (*add_u8)(const uint8_t* a, const uint8_t* b, int64_t count, const Sum&, uint8_t* y);
  void (*add_s8)(const int8_t* a, const int8_t* b, int64_t count, const Sum&, int8_t* y);
  void (*add_u8_f32)(const uint8_t* a, const uint8_t* b, int64_t count, const Sum&, float* y);
  void (*add_s8_f32)(const int8_t* a, const int8_t* b, int64_t count, const Sum&, float* y);
};

}  // namespace pc
