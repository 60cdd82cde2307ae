// Aligned memory, and the checks of memory that callers bring.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "core/status.h"

namespace pc {

constexpr size_t kAlignment = PC_ALIGNMENT;

template <class T> constexpr T round_up(T value, T multiple) { return (value + multiple - 1) / multiple * multiple; }
template <class T> constexpr T divide_up(T value, T divisor) { return value / divisor + (value % divisor != 0); }

inline bool is_aligned(const void* pointer, size_t alignment) { return reinterpret_cast<uintptr_t>(pointer) % alignment == 0; }

// Asks for the cache line of an address, which may lie beyond an array.
inline void prefetch_line(const void* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#else
  static_cast<void>(address);
#endif
}

// Whether [a, a + a_bytes) and [b, b + b_bytes) share a byte. Sizes that reach beyond the last address are taken as they are.
inline bool overlap(const void* a, size_t a_bytes, const void* b, size_t b_bytes) {
  const uintptr_t a0 = reinterpret_cast<uintptr_t>(a), b0 = reinterpret_cast<uintptr_t>(b);
  return a_bytes && b_bytes && (a0 - b0 < b_bytes || b0 - a0 < a_bytes);
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

struct Span {
  const void* begin;
  size_t bytes;
};

// The bytes of an array of [rows, columns] with strides of any sign, in elements; false when that leaves the address space.
inline bool span_of(const void* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, size_t element, Span* span) {
  *span = {data, 0};
  if (rows == 0 || columns == 0) return true;
  size_t before = 0, after = element;  // of data
  const auto reach = [&](int64_t count, int64_t stride) {
    const size_t steps = static_cast<size_t>(count - 1), size = stride < 0 ? 0 - static_cast<size_t>(stride) : static_cast<size_t>(stride);
    size_t& side = stride < 0 ? before : after;
    size_t bytes;
    if (!multiply(steps, size, &bytes) || !multiply(bytes, element, &bytes) || bytes > PTRDIFF_MAX - side) return false;
    side += bytes;
    return true;
  };
  if (!reach(rows, row_stride) || !reach(columns, column_stride) || before > PTRDIFF_MAX - after) return false;
  *span = {static_cast<const char*>(data) - before, before + after};
  return true;
}

// Bytes of workspace for nth parts.
inline pc_status workspace_of_parts(size_t part, int32_t nth, size_t* bytes) {
  PC_CHECK(multiply(static_cast<size_t>(nth), part, bytes), PC_ERROR_OVERFLOW, "the workspace of %d parts of %zu bytes is larger than memory", nth,
           part);
  return PC_OK;
}

// What a call reads, by the name it has in messages.
struct Operand {
  const char* name;
  Span span;
};

// The last of a call's checks: so no message depends on where arrays lie while another mistake is to be named. The workspace holds what is needed,
// and neither it nor y shares a byte with anything else.
inline pc_status check_memory(const Span& y, std::initializer_list<Operand> inputs, const void* workspace, size_t workspace_bytes, size_t needed) {
  PC_CHECK(workspace, PC_ERROR_NULL, "workspace is NULL");
  PC_CHECK(workspace_bytes >= needed, PC_ERROR_BUFFER, "workspace has %zu bytes, wanted %zu", workspace_bytes, needed);
  PC_CHECK(is_aligned(workspace, kAlignment), PC_ERROR_ALIGNMENT, "workspace is not aligned to %d bytes", PC_ALIGNMENT);
  for (const Operand& in : inputs) {
    PC_CHECK(!overlap(y.begin, y.bytes, in.span.begin, in.span.bytes), PC_ERROR_OVERLAP, "y overlaps %s", in.name);
    PC_CHECK(!overlap(workspace, needed, in.span.begin, in.span.bytes), PC_ERROR_OVERLAP, "workspace overlaps %s", in.name);
  }
  PC_CHECK(!overlap(workspace, needed, y.begin, y.bytes), PC_ERROR_OVERLAP, "workspace overlaps y");
  return PC_OK;
}

// An array of 4-byte elements that may be missing.
template <class T> Span optional_span(const T* data, int64_t count) { return {data, data ? static_cast<size_t>(count) * sizeof(T) : 0}; }

// For the library's own callers (the Python module); the C interface never allocates. Large blocks ask for huge pages,
// which spares a streamed weight most of its TLB misses. nullptr when there is no memory.
void* allocate(size_t bytes);
void deallocate(void* pointer);

}  // namespace pc
