// What this CPU can run, and how much of the machine this process may use.
#pragma once

#include <cstdint>

namespace pc {

struct CpuFeatures {
  bool avx2 = false;        // with FMA and F16C, and an operating system that saves ymm
  bool avxvnni = false;     // the VEX form of vpdpbusd
  bool avx512vnni = false;  // with F, BW, VL, DQ, and an operating system that saves zmm
  bool avx512vbmi = false;  // byte permutations, which Cascade Lake lacks
  bool neon = false;        // with the dot product instructions
};

const CpuFeatures& cpu_features();
void cpu_name(char (&name)[64]);
// CPUs in the affinity mask of the process, bounded by the cgroup's CPU quota; at least 1. Read anew at each call.
int usable_cpus();
// level 1 (data), 2 or 3; 0 when unknown.
int cache_bytes(int level);

}  // namespace pc
