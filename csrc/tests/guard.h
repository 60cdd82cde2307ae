// Memory between two inaccessible pages. Each operand's pages are mapped twice: once between the guards, where an input is read-only, and once
// elsewhere, for the test to fill and read. So a byte read before or beyond an operand, or a write to an input, is a SIGSEGV, which
// install_guard_handler() reports with the operand's name and what test::at() was told.
#pragma once

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "test.h"

namespace test {

enum class Place { kEnd, kBegin };  // the operand ends at the guard behind it, or begins at the one before it
enum class Access { kRead, kWrite };

class Guarded {
 public:
  Guarded(const char* name, Access access, size_t capacity);
  ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  // Room for `bytes`, as near to a guard as the alignment lets it be. It and a page beside it are filled with 0xa5. Gives the address for the callee.
  void* place(Place place, size_t bytes, size_t alignment);
  template <class T> T* callee() const { return reinterpret_cast<T*>(guarded_ + offset_); }
  // The same bytes, always writable.
  template <class T> T* own() const { return reinterpret_cast<T*>(own_ + offset_); }
  // Whether nothing but the operand itself differs from the filling: what lies beside it.
  bool rest_untouched() const;

 private:
  friend bool describe_guard(const void* address, char* text, size_t size);
  const char* name_;
  size_t capacity_, offset_ = 0, bytes_ = 0, filled_begin_ = 0, filled_end_ = 0;
  char *own_, *guarded_;
  Guarded* next_;
};

void install_guard_handler();

// For tests of many operands: a value or an array at one of the two places.
constexpr Place kPlaces[] = {Place::kEnd, Place::kBegin};
constexpr size_t kRoom = size_t{1} << 16;

template <class T> T* put(Guarded& g, Place place, const T& value) {
  T* callee = static_cast<T*>(g.place(place, sizeof(T), alignof(T)));
  *g.own<T>() = value;
  return callee;
}

template <class T> T* put(Guarded& g, Place place, const std::vector<T>& values, size_t alignment = alignof(T)) {
  T* callee = static_cast<T*>(g.place(place, values.size() * sizeof(T), alignment));
  if (!values.empty()) std::memcpy(g.own<T>(), values.data(), values.size() * sizeof(T));
  return callee;
}

inline void check_rest(std::initializer_list<const Guarded*> operands) {
  for (const Guarded* g : operands) CHECK(g->rest_untouched(), "bytes on the pages of an operand, but outside it, were written");
}

}  // namespace test
