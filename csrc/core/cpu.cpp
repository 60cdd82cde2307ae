#include "core/cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#endif

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
#define PC_X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace pc {
namespace {

#if defined(PC_X86)
struct Registers {
  unsigned eax, ebx, ecx, edx;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r{};
#if defined(_MSC_VER)
  int values[4];
  __cpuidex(values, static_cast<int>(leaf), static_cast<int>(subleaf));
  std::memcpy(&r, values, sizeof r);
#else
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
#endif
  return r;
}

// The register state that the operating system saves: without it an instruction that the CPU has still faults.
uint64_t xgetbv0() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

bool bit(unsigned value, int index) { return (value >> index) & 1; }

CpuFeatures detect() {
  CpuFeatures f;
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0), seven1 = cpuid(7, 1);
  if (!bit(one.ecx, 27)) return f;  // OSXSAVE
  const uint64_t saved = xgetbv0();
  const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6;
  f.avx2 = ymm && bit(one.ecx, 28) && bit(one.ecx, 12) && bit(one.ecx, 29) && bit(seven.ebx, 5);
  f.avxvnni = f.avx2 && seven.eax >= 1 && bit(seven1.eax, 4);
  f.avx512vnni = f.avx2 && zmm && bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) && bit(seven.ebx, 31) && bit(seven.ecx, 11);
  f.avx512vbmi = f.avx512vnni && bit(seven.ecx, 1);
  return f;
}
#elif defined(__aarch64__) && defined(__linux__)
CpuFeatures detect() {
  CpuFeatures f;
  constexpr unsigned long asimd_dot_product = 1ul << 20;  // HWCAP_ASIMDDP
  f.neon = (getauxval(AT_HWCAP) & asimd_dot_product) != 0;
  return f;
}
#else
CpuFeatures detect() { return {}; }
#endif

#if defined(__linux__)
// The quota of the process's own cgroup as containers show it: "max 100000" or "150000 100000". 0 when there is none.
double cgroup_quota() {
  double quota = 0, period = 0;
  if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    const int fields = std::fscanf(file, "%lf %lf", &quota, &period);
    std::fclose(file);
    return fields == 2 && quota > 0 && period > 0 ? quota / period : 0;
  }
  auto read = [](const char* path, double* value) {
    FILE* file = std::fopen(path, "r");
    if (!file) return false;
    const bool ok = std::fscanf(file, "%lf", value) == 1;
    std::fclose(file);
    return ok;
  };
  if (read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota) && read("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period) && quota > 0 && period > 0)
    return quota / period;
  return 0;
}
#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

void cpu_name(char (&name)[64]) {
  std::memset(name, 0, sizeof name);
#if defined(PC_X86)
  if (cpuid(0x80000000u, 0).eax < 0x80000004u) return;
  for (unsigned i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002u + i, 0);
    std::memcpy(name + 16 * i, &r, 16);
  }
  const size_t first = std::strspn(name, " ");
  std::memmove(name, name + first, sizeof name - first);
  for (size_t n = std::strlen(name); n > 0 && name[n - 1] == ' '; --n) name[n - 1] = '\0';
#endif
}

int usable_cpus() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
  const double quota = cgroup_quota();
  if (quota > 0) count = std::min(count, static_cast<int>(std::ceil(quota)));
#endif
  return std::max(count, 1);
}

int cache_bytes(int level) {
#if defined(__linux__) && defined(_SC_LEVEL1_DCACHE_SIZE)
  const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
  if (level < 1 || level > 3) return 0;
  return static_cast<int>(std::clamp(sysconf(names[level - 1]), 0l, static_cast<long>(INT32_MAX)));
#else
  (void)level;
  return 0;
#endif
}

}  // namespace pc
