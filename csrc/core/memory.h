// Aligned memory, and the checks of memory that callers bring.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/status.h"

namespace pc {

constexpr size_t kAlignment = PC_ALIGNMENT;

template <class T> constexpr T round_up(T value, T multiple) { return (value + multiple - 1) / multiple * multiple; }
template <class T> constexpr T divide_up(T value, T divisor) { return (value + divisor - 1) / divisor; }

inline bool is_aligned(const void* pointer, size_t alignment) { return reinterpret_cast<uintptr_t>(pointer) % alignment == 0; }

// Asks for the cache line of an address, which may lie beyond an array.
inline void prefetch_line(const void* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#else
  static_cast<void>(address);
#endif
}

// Whether [a, a + a_bytes) and [b, b + b_bytes) share a byte.
inline bool overlap(const void* a, size_t a_bytes, const void* b, size_t b_bytes) {
  const uintptr_t a0 = reinterpret_cast<uintptr_t>(a), b0 = reinterpret_cast<uintptr_t>(b);
  return a_bytes && b_bytes && a0 < b0 + b_bytes && b0 < a0 + a_bytes;
}

// Bytes that rows of an array span, from its first to its last; false when that leaves size_t.
inline bool span_bytes(int64_t rows, int64_t columns, int64_t ld, size_t element, size_t* bytes) {
  if (rows == 0 || columns == 0) {
    *bytes = 0;
    return true;
  }
  size_t span;
  if (!multiply(static_cast<size_t>(rows - 1), static_cast<size_t>(ld), &span) || span > SIZE_MAX - static_cast<size_t>(columns)) return false;
  return multiply(span + static_cast<size_t>(columns), element, bytes) && *bytes <= PTRDIFF_MAX;
}

// The bytes of an array of [rows, columns] with strides of any sign, in bytes. Where these leave the address space the result means nothing.
struct Span {
  const void* begin;
  size_t bytes;
};

inline Span span_of(const void* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, size_t element) {
  if (rows == 0 || columns == 0) return {data, 0};
  uintptr_t low = reinterpret_cast<uintptr_t>(data), high = low + element;
  const auto reach = [&](int64_t count, int64_t stride) {
    (stride < 0 ? low : high) += static_cast<uintptr_t>(count - 1) * static_cast<uintptr_t>(stride);
  };
  reach(rows, row_stride);
  reach(columns, column_stride);
  return {reinterpret_cast<const void*>(low), high - low};
}

// For the library's own callers (the Python module); the C interface never allocates. Large blocks ask for huge pages,
// which spares a streamed weight most of its TLB misses. nullptr when there is no memory.
void* allocate(size_t bytes);
void deallocate(void* pointer);

}  // namespace pc
