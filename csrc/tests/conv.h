// Convolutions with the memory that they need, between inaccessible pages, and what they are compared with.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>

#include "reference.h"
#include "test.h"

namespace test {

// An operand that ends at an inaccessible page, or begins behind one.
class Fenced {
 public:
  Fenced(size_t bytes, bool at_end, size_t alignment = 1) : bytes_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    room_ = (bytes + page - 1) / page * page;
    all_ = room_ + 2 * page;
    base_ = static_cast<char*>(mmap(nullptr, all_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) std::abort();
    mprotect(base_, page, PROT_NONE);
    mprotect(base_ + page + room_, page, PROT_NONE);
    data_ = base_ + page + (at_end ? (room_ - bytes) / alignment * alignment : 0);
    std::memset(base_ + page, 0xa5, room_);
  }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;
  ~Fenced() { munmap(base_, all_); }
  template <class T> T* as() { return reinterpret_cast<T*>(data_); }
  size_t bytes() const { return bytes_; }
  // Whether the bytes beside the operand, up to the pages, are as they were.
  bool rest_untouched() const {
    const char* begin = base_ + (all_ - room_) / 2;
    for (const char* p = begin; p < begin + room_; ++p)
      if ((p < data_ || p >= data_ + bytes_) && static_cast<unsigned char>(*p) != 0xa5) return false;
    return true;
  }

 private:
  char *base_, *data_;
  size_t bytes_, room_, all_;
};

inline size_t conv_size_of(pc_type type) { return type == PC_F32 || type == PC_S32 ? 4 : 1; }

// A value of x, with the padding around it: zero_point there.
inline int32_t q8_at(const void* x, pc_type type, int64_t i) {
  return type == PC_S8 ? static_cast<const int8_t*>(x)[i] : static_cast<const uint8_t*>(x)[i];
}

// The last step of one int32 sum, by that of gemm_s8.
inline void last_step(const pc_conv_desc& d, int32_t acc, float w_scale, const float* bias, void* y, int64_t i) {
  pc_gemm_s8_desc g{};
  g.x_scale = d.x_scale;
  g.y_type = d.y_type;
  g.y_scale = d.y_scale;
  g.y_zero_point = d.y_zero_point;
  g.activation = d.activation;
  g.low = d.low;
  g.high = d.high;
  if (d.y_type == PC_S32)
    static_cast<int32_t*>(y)[i] = acc;
  else if (d.y_type == PC_F32)
    static_cast<float*>(y)[i] = reference::to_f32(acc, d.x_scale, w_scale, bias, d.activation, d.low, d.high);
  else
    static_cast<int8_t*>(y)[i] = static_cast<int8_t>(reference::to_q8(acc, g, w_scale, bias));
}

}  // namespace test
