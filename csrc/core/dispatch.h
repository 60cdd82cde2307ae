// The one table of kernels: for each instruction set, a slot per family. kernels.inc in each family says which file fills which slot for
// which ISA; the build collects those lines in kernels_built.inc.
#pragma once

#include "core/status.h"

namespace pc {

struct QuantKernel;
struct ActivationKernel;
struct GemmS8Kernel;
struct GemmS4Kernel;
struct GemmF32Kernel;
struct GemmF32FewKernel;
struct PoolKernel;
struct PeakKernel;
struct SparseF32Kernel;
struct SparseS8Kernel;
struct DepthwiseS8Kernel;
struct DepthwiseF32Kernel;
struct Im2colKernel;

// A slot that an ISA leaves empty is filled with that of the next lower ISA that the CPU can run.
struct Kernels {
  const QuantKernel* quant;
  const ActivationKernel* activation;
  const GemmS8Kernel* gemm_s8;
  const GemmS8Kernel* gemm_s8_split;  // for weights that it allows, where it is better; not inherited, and else nullptr
  const GemmS4Kernel* gemm_s4;
  const GemmF32Kernel* gemm_f32;
  const GemmF32Kernel* gemm_f16;
  const GemmF32FewKernel* gemm_f32_few;
  const PoolKernel* pool;
  const PeakKernel* peak;
  const SparseF32Kernel* sparse_f32;
  const SparseS8Kernel* sparse_s8;
  const DepthwiseS8Kernel* depthwise_s8;
  const DepthwiseF32Kernel* depthwise_f32;
  const Im2colKernel* im2col;
};

// The kernels in use. Reads PYCOMPRESS_ISA when first called; PC_ERROR_ISA when that names what can't run here.
pc_status active_kernels(const Kernels** kernels);
// Those of one ISA by its index, or nullptr when this CPU can't run them.
const Kernels* kernels_of(int32_t index);
// For pc_last_kernel(); static memory.
void set_last_kernel(const char* name);

}  // namespace pc
