// Statuses with messages. A failing check is one line: PC_CHECK(m >= 0, PC_ERROR_SHAPE, "m is %lld, wanted >= 0", m).
#pragma once

#include "pycompress.h"

namespace pc {

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
pc_status fail(pc_status status, const char* format, ...);

// Carries a message from the thread where it arose to the one that reports it.
void set_last_error(const char* message);

// Any integer, as printf's %lld wants it.
template <class T> inline long long ll(T value) { return static_cast<long long>(value); }

// a * b for sizes >= 0; false when it leaves size_t.
inline bool multiply(size_t a, size_t b, size_t* product) {
  if (b != 0 && a > SIZE_MAX / b) return false;
  *product = a * b;
  return true;
}

}  // namespace pc

#define PC_CHECK(condition, status, ...)                      \
  do {                                                        \
    if (!(condition)) return ::pc::fail(status, __VA_ARGS__); \
  } while (0)

#define PC_TRY(expression)                            \
  do {                                                \
    const pc_status pc_try_status = (expression);     \
    if (pc_try_status != PC_OK) return pc_try_status; \
  } while (0)
