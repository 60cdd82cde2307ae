#include "core/memory.h"

#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pc {

void* allocate(size_t bytes) {
  constexpr size_t huge_page = size_t{1} << 21;
  const size_t alignment = bytes >= 2 * huge_page ? huge_page : kAlignment;
  if (bytes > SIZE_MAX - alignment) return nullptr;
#if defined(_WIN32)
  return _aligned_malloc(bytes ? bytes : 1, alignment);
#else
  void* pointer = nullptr;
  if (posix_memalign(&pointer, alignment, bytes ? bytes : 1) != 0) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (alignment == huge_page) (void)madvise(pointer, bytes, MADV_HUGEPAGE);
#endif
  return pointer;
#endif
}

void deallocate(void* pointer) {
#if defined(_WIN32)
  _aligned_free(pointer);
#else
  std::free(pointer);
#endif
}

}  // namespace pc
