#include <chrono>
#include <cstdarg>

#include "test.h"

namespace test {
namespace {
char place[256] = "";
int failures = 0;
constexpr int kShown = 20;

bool usable(const char* name) {
  for (int32_t i = 0; i < pc_isa_count(); ++i)
    if (std::strcmp(pc_isa_name(i), name) == 0) return pc_isa_usable(i) != 0;
  return false;
}
}  // namespace

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

void at(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(place, sizeof place, format, arguments);
  va_end(arguments);
}

const char* where() { return place; }

void report(const char* file, int line, const char* condition, const char* format, ...) {
  if (++failures > kShown) return;
  std::printf("%s:%d: [%s] failed: %s", file, line, place, condition);
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
  std::fflush(stdout);
}

std::vector<int> sizes_to(int last) {
  std::vector<int> sizes;
  for (int i = 1; i <= last; ++i) {
    const int beside = i % 16;  // tiles and vectors end at multiples of 4, 8, 16, 32
    if (kStride == 1 || i <= 2 || beside == 0 || beside == 1 || i % kStride == 0 || i == last) sizes.push_back(i);
  }
  return sizes;
}

void for_each_isa(void (*body)(const std::string&)) {
  for (int32_t i = 0; i < pc_isa_count(); ++i) {
    if (!pc_isa_usable(i)) continue;
    const std::string isa = pc_isa_name(i);
    at("%s", isa.c_str());
    CHECK_OK(pc_set_isa(isa.c_str()));
    CHECK(pc_isa_active() == i);
    body(isa);
    at("%s", "");
  }
  CHECK_OK(pc_set_isa(nullptr));
}

void check_kernel(const char* family, const std::string& isa) {
  const bool has_vnni = std::strcmp(family, "gemm_s8") == 0 || std::strcmp(family, "gemm_s4") == 0 || std::strcmp(family, "depthwise_s8") == 0;
  const bool own = has_vnni || (isa != "avxvnni" && isa != "avxvnni_vl");
  const std::string lower = isa == "avxvnni" ? "avx2" : "avx512vnni";
  const std::string wanted = std::string(family) + "/" + (own ? isa : lower);
  // A weight that allows it may run in a kernel of its own.
  CHECK(pc_last_kernel() == wanted || pc_last_kernel() == std::string(family) + "_split/" + isa, "ran %s, wanted %s", pc_last_kernel(),
        wanted.c_str());
}

}  // namespace test

// Arguments are names of cases; none: all.
int main(int count, char** names) {
  std::printf("instruction sets:");
  for (int32_t i = 0; i < pc_isa_count(); ++i) std::printf(" %s%s", pc_isa_name(i), pc_isa_usable(i) ? "" : " (not on this CPU)");
  bool simde = test::usable("avx512vnni_simde");
  std::printf("%s\n", simde ? "" : "; avx512vnni_simde is not built: no SIMDe");
  for (const test::Case& c : test::cases()) {
    bool wanted = count == 1;
    for (int i = 1; i < count; ++i) wanted |= std::strcmp(names[i], c.name) == 0;
    if (!wanted) continue;
    std::printf("%-40s", c.name);
    std::fflush(stdout);
    const auto begin = std::chrono::steady_clock::now();
    const int before = test::failures;
    c.run();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("%s %.2f s\n", test::failures == before ? "ok" : "FAILED", seconds.count());
  }
  if (test::failures) std::printf("%d checks failed\n", test::failures);
  return test::failures != 0;
}
