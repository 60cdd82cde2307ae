// See guard.h.
#include "guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "test.h"

namespace test {
namespace {

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));
Guarded* all_guarded = nullptr;

void stop(const char* what) {
  std::perror(what);
  std::abort();
}

}  // namespace

Guarded::Guarded(const char* name, Access access, size_t capacity)
    : name_(name), capacity_((capacity + kPage - 1) / kPage * kPage), next_(all_guarded) {
  if (capacity_ == 0) capacity_ = kPage;
  const int file = memfd_create(name, 0);
  if (file < 0 || ftruncate(file, static_cast<off_t>(capacity_)) != 0) stop("memfd");
  void* own = mmap(nullptr, capacity_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  void* whole = mmap(nullptr, capacity_ + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (own == MAP_FAILED || whole == MAP_FAILED) stop("mmap");
  own_ = static_cast<char*>(own);
  guarded_ = static_cast<char*>(whole) + kPage;
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  if (mmap(guarded_, capacity_, protection, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) stop("mmap");
  close(file);
  all_guarded = this;
}

Guarded::~Guarded() {
  munmap(own_, capacity_);
  munmap(guarded_ - kPage, capacity_ + 2 * kPage);
  for (Guarded** g = &all_guarded; *g; g = &(*g)->next_)
    if (*g == this) {
      *g = next_;
      break;
    }
}

void* Guarded::place(Place place, size_t bytes, size_t alignment) {
  if (bytes > capacity_) std::abort();
  bytes_ = bytes;
  offset_ = place == Place::kBegin ? 0 : (capacity_ - bytes) / alignment * alignment;
  filled_begin_ = offset_ > kPage ? offset_ - kPage : 0;
  filled_end_ = std::min(capacity_, offset_ + bytes_ + kPage);
  std::memset(own_ + filled_begin_, 0xa5, filled_end_ - filled_begin_);
  return guarded_ + offset_;
}

bool Guarded::rest_untouched() const {
  const auto filled = [this](size_t begin, size_t end) {
    return std::all_of(own_ + begin, own_ + end, [](char c) { return static_cast<unsigned char>(c) == 0xa5; });
  };
  return filled(filled_begin_, offset_) && filled(offset_ + bytes_, filled_end_);
}

bool describe_guard(const void* address, char* text, size_t size) {
  const char* a = static_cast<const char*>(address);
  for (const Guarded* g = all_guarded; g; g = g->next_) {
    if (a < g->guarded_ - kPage || a >= g->guarded_ + g->capacity_ + kPage) continue;
    const char* begin = g->guarded_ + g->offset_;
    const long long offset = a - begin;
    const char* what = offset < 0 ? "before" : offset >= static_cast<long long>(g->bytes_) ? "beyond" : "written in";
    std::snprintf(text, size, "%s the operand '%s': at offset %lld of %zu bytes", what, g->name_, offset, g->bytes_);
    return true;
  }
  return false;
}

namespace {
// Not async-signal-safe in general, but the fault is in a kernel that holds no lock.
void on_fault(int, siginfo_t* info, void*) {
  char text[256];
  if (!describe_guard(info->si_addr, text, sizeof text)) std::snprintf(text, sizeof text, "no operand lies there: %p", info->si_addr);
  std::printf("\n[%s] memory fault %s\n", where(), text);
  std::fflush(stdout);
  _exit(1);
}
}  // namespace

void install_guard_handler() {
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace test
