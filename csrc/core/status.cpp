#include "core/status.h"

#include <cstdarg>
#include <cstdio>

namespace pc {
namespace {
thread_local char last_error[256] = "";
}

pc_status fail(pc_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

void set_last_error(const char* message) { std::snprintf(last_error, sizeof last_error, "%s", message); }

}  // namespace pc

extern "C" {

const char* pc_last_error(void) { return pc::last_error; }

const char* pc_status_name(pc_status status) {
  static const char* const names[] = {"ok",      "null",   "type",   "shape", "value",  "overflow", "alignment",
                                      "overlap", "buffer", "format", "isa",   "struct", "nonfinite"};
  const int count = static_cast<int>(sizeof names / sizeof *names);
  return status >= 0 && status < count ? names[status] : "unknown";
}

#define PC_STRING_(x) #x
#define PC_STRING(x) PC_STRING_(x)
const char* pc_version(void) { return PC_STRING(PC_VERSION_MAJOR) "." PC_STRING(PC_VERSION_MINOR) "." PC_STRING(PC_VERSION_PATCH); }
}
