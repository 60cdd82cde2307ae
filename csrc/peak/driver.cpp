#include <algorithm>
#include <chrono>

#include "core/dispatch.h"
#include "peak/peak.h"

extern "C" pc_status pc_measure_peak(pc_type type, double* macs_per_second) {
  PC_CHECK(macs_per_second, PC_ERROR_NULL, "macs_per_second is NULL");
  PC_CHECK(type == PC_F32 || type == PC_S8, PC_ERROR_TYPE, "type is %d, wanted PC_F32 or PC_S8", type);
  const pc::Kernels* kernels;
  PC_TRY(pc::active_kernels(&kernels));
  const auto run = type == PC_F32 ? kernels->peak->f32 : kernels->peak->s8;
  *macs_per_second = 0;
  // The best of a few short runs: an interruption can only make one slower.
  for (int i = 0; i < 20; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const double macs = run(20000);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    *macs_per_second = std::max(*macs_per_second, macs / seconds.count());
  }
  return PC_OK;
}
