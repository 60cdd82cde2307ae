#include "core/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "conv/depthwise.h"
#include "conv/im2col_kernel.h"
#include "core/cpu.h"
#include "gemm/gemm.h"
#include "peak/peak.h"
#include "pool/pool.h"
#include "quant/quant.h"
#include "sparse/sparse.h"

#define PC_KERNEL(slot, isa)                                  \
  namespace pc {                                              \
  namespace isa {                                             \
  extern std::remove_pointer_t<decltype(Kernels::slot)> slot; \
  }                                                           \
  }
#include "kernels_built.inc"
#undef PC_KERNEL

namespace pc {
namespace {

struct Isa {
  const char* name;
  bool usable;
  bool by_name_only;  // forms of another ISA that exist for the tests
  bool built;
  Kernels kernels;
};

constexpr int kMaxIsas = 8;

struct Table {
  Isa isas[kMaxIsas] = {};
  int count = 0;

  Table() {
    const CpuFeatures& cpu = cpu_features();
    Isa known[kMaxIsas] = {
        {"scalar", true, false, false, {}},
        {"neon", cpu.neon, false, false, {}},
        {"avx2", cpu.avx2, false, false, {}},
        {"avxvnni", cpu.avxvnni, false, false, {}},
        {"avx512vnni", cpu.avx512vnni, false, false, {}},
        {"avxvnni_vl", cpu.avx512vnni, true, false, {}},
        {"avx512vnni_simde", true, true, false, {}},
    };
    auto fill = [&known](const char* name, auto Kernels::* slot, auto* kernel) {
      for (Isa& isa : known)
        if (isa.name && std::strcmp(isa.name, name) == 0) {
          isa.kernels.*slot = kernel;
          isa.built = true;
        }
    };
#define PC_KERNEL(slot, isa) fill(#isa, &Kernels::slot, &isa::slot);
#include "kernels_built.inc"
#undef PC_KERNEL
    Kernels best{};
    for (const Isa& isa : known) {
      if (!isa.name || !isa.built) continue;
      Isa& added = isas[count++] = isa;
      inherit(&added.kernels.quant, best.quant);
      inherit(&added.kernels.activation, best.activation);
      inherit(&added.kernels.gemm_s8, best.gemm_s8);
      inherit(&added.kernels.gemm_s4, best.gemm_s4);
      inherit(&added.kernels.gemm_f32, best.gemm_f32);
      inherit(&added.kernels.gemm_f16, best.gemm_f16);
      inherit(&added.kernels.gemm_f32_few, best.gemm_f32_few);
      inherit(&added.kernels.pool, best.pool);
      inherit(&added.kernels.peak, best.peak);
      inherit(&added.kernels.sparse_f32, best.sparse_f32);
      inherit(&added.kernels.sparse_s8, best.sparse_s8);
      inherit(&added.kernels.depthwise_s8, best.depthwise_s8);
      inherit(&added.kernels.depthwise_f32, best.depthwise_f32);
      inherit(&added.kernels.im2col, best.im2col);
      if (added.usable && !added.by_name_only) best = added.kernels;
    }
  }

  template <class T> static void inherit(const T** slot, const T* lower) {
    if (!*slot) *slot = lower;
  }

  int best() const {
    int index = 0;
    for (int i = 0; i < count; ++i)
      if (isas[i].usable && !isas[i].by_name_only) index = i;
    return index;
  }
};

const Table& table() {
  static const Table t;
  return t;
}

constexpr int kUndecided = -1;
std::atomic<int> active{kUndecided};
thread_local const char* last_kernel = "";

pc_status choose(const char* name, int* index) {
  const Table& t = table();
  if (!name || !*name) {
    *index = t.best();
    return PC_OK;
  }
  for (int i = 0; i < t.count; ++i)
    if (std::strcmp(t.isas[i].name, name) == 0) {
      PC_CHECK(t.isas[i].usable, PC_ERROR_ISA, "the instruction set '%s' is built, but this CPU can't run it; the best it can run is '%s'", name,
               t.isas[t.best()].name);
      *index = i;
      return PC_OK;
    }
  return fail(PC_ERROR_ISA, "the instruction set '%s' is not in this build; the best that can run here is '%s'", name, t.isas[t.best()].name);
}

// As a cap: of an instruction set that this CPU skipped, the best usable one below it.
pc_status choose_capped(const char* name, int* index) {
  const Table& t = table();
  for (int i = 0; name && i < t.best(); ++i)
    if (std::strcmp(t.isas[i].name, name) == 0 && !t.isas[i].by_name_only) {
      while (!t.isas[i].usable || t.isas[i].by_name_only) --i;  // the first is always usable
      *index = i;
      return PC_OK;
    }
  return choose(name, index);
}

pc_status active_index(int* index) {
  *index = active.load(std::memory_order_relaxed);
  if (*index != kUndecided) return PC_OK;
  PC_TRY(choose_capped(std::getenv("PYCOMPRESS_ISA"), index));
  active.store(*index, std::memory_order_relaxed);
  return PC_OK;
}

}  // namespace

pc_status active_kernels(const Kernels** kernels) {
  int index;
  PC_TRY(active_index(&index));
  *kernels = &table().isas[index].kernels;
  return PC_OK;
}

const Kernels* kernels_of(int32_t index) {
  const Table& t = table();
  return index >= 0 && index < t.count && t.isas[index].usable ? &t.isas[index].kernels : nullptr;
}

void set_last_kernel(const char* name) { last_kernel = name; }

}  // namespace pc

extern "C" {

int32_t pc_isa_count(void) { return pc::table().count; }

const char* pc_isa_name(int32_t index) { return index >= 0 && index < pc_isa_count() ? pc::table().isas[index].name : nullptr; }

int32_t pc_isa_usable(int32_t index) { return index >= 0 && index < pc_isa_count() && pc::table().isas[index].usable; }

int32_t pc_isa_active(void) {
  int index;
  return pc::active_index(&index) == PC_OK ? index : -1;
}

pc_status pc_set_isa(const char* name) {
  int index;
  PC_TRY(pc::choose(name, &index));
  pc::active.store(index, std::memory_order_relaxed);
  return PC_OK;
}

const char* pc_last_kernel(void) { return pc::last_kernel; }

pc_status pc_get_cpu_info(pc_cpu_info* info) {
  PC_CHECK(info, PC_ERROR_NULL, "info is NULL");
  PC_CHECK(info->size == sizeof *info, PC_ERROR_STRUCT, "info->size is %zu, wanted %zu", info->size, sizeof *info);
  pc::cpu_name(info->name);
  info->usable_cpus = pc::usable_cpus();
  info->l1d_bytes = pc::cache_bytes(1);
  info->l2_bytes = pc::cache_bytes(2);
  info->l3_bytes = pc::cache_bytes(3);
  return PC_OK;
}
}
