// The little that the native tests need of a framework: TEST(name) { ... CHECK(...); }, random numbers, and every instruction set in turn.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "pycompress.h"

namespace test {

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PC_TEST_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define PC_TEST_SANITIZED 1
#endif

// The one knob for time: loops over sizes that are complete in a plain build take every kStride-th size under sanitizers, the first and last
// few always (see sizes_to), so that both ends of a tile stay covered.
#if defined(PC_TEST_SANITIZED)
constexpr int kStride = 5;
#else
constexpr int kStride = 1;
#endif

struct Case {
  const char* name;
  void (*run)();
};
std::vector<Case>& cases();
struct Registered {
  Registered(const char* name, void (*run)()) { cases().push_back({name, run}); }
};
#define TEST(name)                                                \
  static void name();                                             \
  static const ::test::Registered registered_##name(#name, name); \
  static void name()

// What the test is at, shown with a failure: "avx2 m=3 n=17 k=5".
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
void at(const char* format, ...);
const char* where();

#if defined(__GNUC__)
__attribute__((format(printf, 4, 5)))
#endif
void report(const char* file, int line, const char* condition, const char* format, ...);
#define CHECK(condition, ...)                                                          \
  do {                                                                                 \
    if (!(condition)) ::test::report(__FILE__, __LINE__, #condition, " " __VA_ARGS__); \
  } while (0)
#define CHECK_STATUS(wanted, call)                                                                                                  \
  do {                                                                                                                              \
    const pc_status got_ = (call);                                                                                                  \
    if (got_ != (wanted))                                                                                                           \
      ::test::report(__FILE__, __LINE__, #call, " got %s, wanted %s; last error: %s", pc_status_name(got_), pc_status_name(wanted), \
                     pc_last_error());                                                                                              \
  } while (0)
#define CHECK_OK(call) CHECK_STATUS(PC_OK, call)

// xorshift: the same numbers on every machine, fast enough to fill large arrays under sanitizers.
class Random {
 public:
  explicit Random(uint64_t seed = 1) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  int64_t integer(int64_t low, int64_t high) { return low + static_cast<int64_t>((bits() >> 11) % static_cast<uint64_t>(high - low + 1)); }
  float real(float low, float high) { return low + (high - low) * static_cast<float>(bits() >> 40) * 0x1p-24f; }
  template <class T> void fill(T* data, size_t count) {
    for (size_t i = 0; i < count; ++i) data[i] = static_cast<T>(bits());
  }

 private:
  uint64_t state_;
};

// Memory for packed weights and workspaces, filled with a pattern that is wrong in every type.
class Aligned {
 public:
  explicit Aligned(size_t bytes) : bytes_(bytes) {
    if (posix_memalign(&data_, PC_ALIGNMENT, bytes ? bytes : 1) != 0) std::abort();
    std::memset(data_, 0xa5, bytes);
  }
  Aligned(Aligned&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  Aligned& operator=(Aligned&&) = delete;
  ~Aligned() { std::free(data_); }
  char* data() { return static_cast<char*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

// Sizes 1..last: all of them, or under sanitizers every kStride-th and those beside the tile sizes.
std::vector<int> sizes_to(int last);

// Runs body once for every instruction set that can run here, test forms too, with that one forced.
void for_each_isa(void (*body)(const std::string& isa));
// Whether the last run of this thread used the kernel that `isa` should use for the family: its own, or for a family that an ISA does not
// implement that of the next lower one (avxvnni takes avx2's, its test form avxvnni_vl takes avx512vnni's).
void check_kernel(const char* family, const std::string& isa);

inline bool same_bits(float a, float b) {
  if (a != a && b != b) return true;  // which NaN is not defined
  return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace test
