/* pycompress: kernels for compressed neural networks on ordinary CPUs.
 *
 * This is the whole C interface. C99 and C++; no other header is needed.
 *
 * Conventions
 * - Every function that can fail returns a pc_status; pc_last_error() then says more, for the calling thread.
 * - Matrices are row-major. A weight is [n, k], outputs by inputs. Sizes and strides count elements, not bytes.
 * - Nothing is allocated: ask for a size, bring the memory. Buffers named "packed" and "workspace" must be
 *   PC_ALIGNMENT-aligned; other arrays need the alignment of their element type.
 * - The caller owns all memory. A call keeps no pointer after it returns, and touches no byte outside its operands.
 * - A call that fails leaves its output as it was; only what the values show while the work runs (NaN, a product of scales that is not finite, a
 *   zero point or bias out of range) may leave a part of it written.
 * - Functions that end in (ith, nth) do the part `ith` of `nth` of the work. Call them once for each ith in [0, nth),
 *   in any order, from any threads, at the same time or one after another; the result is complete when all have
 *   returned, and its bits do not depend on nth. Parts share the workspace, each in its own region.
 *   ith = 0, nth = 1 does everything on the calling thread. pc_parallel() runs the parts on the library's own pool.
 * - Descriptors begin with their own size (set it to sizeof), so that fields can be added at the end later. Zero a
 *   descriptor before filling it: zero always means "not used".
 * - Functions are safe to call from several threads, except pc_set_isa() while others run.
 */
#ifndef PYCOMPRESS_H
#define PYCOMPRESS_H

#include <stddef.h>
#include <stdint.h>

#ifndef PC_API
#if defined(_WIN32)
#define PC_API __declspec(dllimport)
#else
#define PC_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define PC_VERSION_MAJOR 0
#define PC_VERSION_MINOR 1
#define PC_VERSION_PATCH 0
#define PC_ALIGNMENT 64

typedef int32_t pc_status;
enum {
  PC_OK = 0,
  PC_ERROR_NULL = 1,      /* a pointer that is needed is NULL */
  PC_ERROR_TYPE = 2,      /* an element type that the function does not take */
  PC_ERROR_SHAPE = 3,     /* a size or stride that is negative or does not fit the others */
  PC_ERROR_VALUE = 4,     /* a number out of its range: a scale that is not positive, a zero point, ith >= nth */
  PC_ERROR_OVERFLOW = 5,  /* k so long that an int32 sum could overflow, or a size that overflows */
  PC_ERROR_ALIGNMENT = 6, /* a buffer that is not aligned as promised */
  PC_ERROR_OVERLAP = 7,   /* the output overlaps an input, or the workspace any other array */
  PC_ERROR_BUFFER = 8,    /* a packed or workspace buffer that is too small */
  PC_ERROR_FORMAT = 9,    /* packed bytes that are not what pc_..._pack wrote */
  PC_ERROR_ISA = 10,      /* an instruction set that this CPU or this build does not have */
  PC_ERROR_STRUCT = 11,   /* a descriptor whose size field is not known to this version */
  PC_ERROR_NONFINITE = 12 /* NaN or infinity where a value is to be quantized */
};

typedef int32_t pc_type;
enum { PC_F32 = 1, PC_U8 = 2, PC_S8 = 3, PC_S32 = 4 };

typedef int32_t pc_activation;
enum {
  PC_ACTIVATION_NONE = 0,
  PC_ACTIVATION_CLAMP = 1, /* min(max(y, low), high): relu is (0, inf), relu6 is (0, 6) */
  PC_ACTIVATION_HARDSWISH = 2,
  PC_ACTIVATION_SILU = 3,
  PC_ACTIVATION_GELU = 4 /* the exact form, x * Phi(x) */
};

/* ---- about the library and the machine ------------------------------------------------------------------------ */

/* "0.1.0". */
PC_API const char* pc_version(void);
/* A short name of a status: "overflow". Static memory; never NULL. */
PC_API const char* pc_status_name(pc_status status);
/* What went wrong in the last call of this thread that failed, with the argument, what it got and what it wanted.
 * Valid until the next call that fails on this thread. Never NULL. */
PC_API const char* pc_last_error(void);

/* The instruction sets that this build knows, from the least to the best: 0 <= index < pc_isa_count(). */
PC_API int32_t pc_isa_count(void);
PC_API const char* pc_isa_name(int32_t index); /* NULL when out of range */
PC_API int32_t pc_isa_usable(int32_t index);   /* 1 when this CPU and its operating system can run it */
/* The index of the one in use: the best usable one, or what PYCOMPRESS_ISA or pc_set_isa() capped it to. */
PC_API int32_t pc_isa_active(void);
/* Choose by name; NULL or "" for the best usable one. PC_ERROR_ISA when it is unknown or not usable.
 * A weight that is packed already keeps its layout, and is read by the active kernel if that has the same, else by the one it was packed for. */
PC_API pc_status pc_set_isa(const char* name);
/* The kernel that the last pc_..._run of this thread used, as "gemm_s8/avx2" or "gemm_s8_split/avx2"; "" before the first. */
PC_API const char* pc_last_kernel(void);

typedef struct pc_cpu_info {
  size_t size;                           /* in: sizeof(pc_cpu_info) */
  char name[64];                         /* as the CPU gives it; "" when it does not */
  int32_t usable_cpus;                   /* CPUs that this process may use: affinity and cgroup quota */
  int32_t l1d_bytes, l2_bytes, l3_bytes; /* 0 when unknown */
} pc_cpu_info;
PC_API pc_status pc_get_cpu_info(pc_cpu_info* info);

/* The default pool: used by pc_parallel() only. Its threads start when first needed, sleep when idle, and are started
 * afresh in a forked child. n = 0 asks for the default: PYCOMPRESS_NUM_THREADS, else OMP_NUM_THREADS, else usable_cpus. */
PC_API int32_t pc_get_num_threads(void);
PC_API pc_status pc_set_num_threads(int32_t n);
/* Calls body(context, ith, nth) for every ith, on at most nth threads of which the caller is one, and returns when all
 * have returned. While another thread is inside pc_parallel(), the parts run on the calling thread. Returns the
 * first status that is not PC_OK, with its message. */
typedef pc_status (*pc_body)(void* context, int32_t ith, int32_t nth);
PC_API pc_status pc_parallel(pc_body body, void* context, int32_t nth);

/* Multiply-accumulates per second that the active instruction set reaches from registers, on one core, for a few
 * milliseconds: the bound that a kernel is measured against. type is PC_F32 or PC_S8. */
PC_API pc_status pc_measure_peak(pc_type type, double* macs_per_second);

/* ---- quant: ONNX QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear ---------------------------------------- */

/* A tensor seen as [outer, channels, inner], one scale and zero point per channel. Per tensor: channels = 1. */
typedef struct pc_quant_desc {
  size_t size;
  int64_t outer, channels, inner;
  pc_type q_type;            /* of the quantized side: PC_U8 or PC_S8; for dequantize also PC_S32 */
  const float* scale;        /* [channels], positive and finite */
  const int32_t* zero_point; /* [channels] or NULL for zeros; within the range of q_type */
} pc_quant_desc;

/* y = clip(round_half_even(x / scale) + zero_point). x float32, y q_type, both [outer, channels, inner], contiguous.
 * NaN in x: PC_ERROR_NONFINITE (infinities saturate). */
PC_API pc_status pc_quantize_linear_run(const pc_quant_desc* desc, const float* x, void* y, int32_t ith, int32_t nth);
/* y = (x - zero_point) * scale in float32. */
PC_API pc_status pc_dequantize_linear_run(const pc_quant_desc* desc, const void* x, float* y, int32_t ith, int32_t nth);

/* min and max of part ith of x[count], with 0 included: range[2 * ith] and range[2 * ith + 1]. NaN or infinity in x:
 * PC_ERROR_NONFINITE. */
PC_API pc_status pc_range_run(const float* x, int64_t count, float* range, int32_t ith, int32_t nth);
/* From nth such ranges the scale and zero point of ONNX DynamicQuantizeLinear (uint8). PC_ERROR_VALUE when the width of
 * the range is not finite. */
PC_API pc_status pc_dynamic_qparams(const float* range, int32_t nth, float* scale, int32_t* zero_point);

/* The form that pc_gemm_s8 applies to float32 activations: each row of x[m, k] gets its own scale and zero point, by the
 * formula of DynamicQuantizeLinear, and q = clip(round_half_even(x * (1 / scale)) + zero_point). y uint8 [m, k],
 * scale [m], zero_point [m]. ldx, ldy: elements from row to row. */
PC_API pc_status pc_quantize_rows_run(const float* x, int64_t m, int64_t k, int64_t ldx, uint8_t* y, int64_t ldy, float* scale, int32_t* zero_point,
                                      int32_t ith, int32_t nth);

/* ---- gemm_s8: y[m, n] = x[m, k] * w[n, k]^T, in exact int32, with a fused last step ------------------------------ */

typedef struct pc_gemm_s8_desc {
  size_t size;
  int64_t m, n, k;
  int64_t ldx, ldy; /* elements from row to row; 0: k and n */
  pc_type x_type;   /* PC_F32 (quantized on the fly), PC_U8 or PC_S8 */
  pc_type y_type;   /* PC_S32, PC_F32, PC_U8 or PC_S8 */
  float x_scale;    /* of all of x. With PC_F32: 0 means per row, from the data */
  int32_t x_zero_point;
  const int32_t* x_zero_points; /* [m], instead of x_zero_point; y_type PC_S32 only. Or NULL */
  const int32_t* w_zero_points; /* [n] or NULL for zeros; within the range of w's type */
  float y_scale;                /* PC_U8 and PC_S8 */
  int32_t y_zero_point;
  const float* bias;        /* [n] or NULL. Not with PC_S32 */
  pc_activation activation; /* not with PC_S32 */
  float low, high;          /* of PC_ACTIVATION_CLAMP */
} pc_gemm_s8_desc;

/* Bytes that the packed form of an int8 or uint8 weight [n, k] takes at most, for the active instruction set. Some depend on the values of w:
 * then the rest is filled with zeros. */
PC_API pc_status pc_gemm_s8_pack_size(int64_t n, int64_t k, size_t* bytes);
/* w[i * ldn + j * ldk] is output i, input j; both may be negative. w_type PC_S8 or PC_U8. scale [n], or NULL for ones. Every byte of packed[bytes]
 * is written, so that it can be stored and mapped again on a CPU of the same kind. */
PC_API pc_status pc_gemm_s8_pack(const void* w, pc_type w_type, int64_t n, int64_t k, int64_t ldn, int64_t ldk, const float* scale, void* packed,
                                 size_t bytes);
/* What a packed weight is: checks its header. n, k and kernel ("gemm_s8/avx2", static memory) may be NULL. */
PC_API pc_status pc_gemm_s8_packed_info(const void* packed, size_t bytes, int64_t* n, int64_t* k, const char** kernel);
/* Bytes of workspace for all nth parts together. */
PC_API pc_status pc_gemm_s8_workspace_size(const pc_gemm_s8_desc* desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes);
/* k is bounded so that no sum can leave int32: k * 255 * 128 < 2^31 (255 * 255 with w_zero_points, whatever they are, or a uint8 weight), else
 * PC_ERROR_OVERFLOW. */
PC_API pc_status pc_gemm_s8_run(const pc_gemm_s8_desc* desc, const void* packed, size_t bytes, const void* x, void* y, void* workspace,
                                size_t workspace_bytes, int32_t ith, int32_t nth);

/* ---- gemm_s4: the same by a weight of 4 bits, with a scale for each output and group of k -------------------------- */

/* y = activation(x_scale[m] * sum over groups g of scale[n, g] * (sum over k in g of (x - zero point) * w) + bias[n]): integers within a group,
 * float32 over the groups, in order; with a quantized y then as pc_quantize_linear_run. */
typedef struct pc_gemm_s4_desc {
  size_t size;
  int64_t m, n, k;
  int64_t ldx, ldy; /* elements from row to row; 0: k and n */
  pc_type x_type;   /* PC_F32 (quantized on the fly), PC_U8 or PC_S8 */
  pc_type y_type;   /* PC_F32, PC_U8 or PC_S8 */
  float x_scale;    /* of all of x. With PC_F32: 0 means per row, from the data */
  int32_t x_zero_point;
  float y_scale; /* PC_U8 and PC_S8 */
  int32_t y_zero_point;
  const float* bias; /* [n] or NULL */
  pc_activation activation;
  float low, high; /* of PC_ACTIVATION_CLAMP */
} pc_gemm_s4_desc;

/* Bytes of the packed form of a weight [n, k], for the active instruction set. group_size is a multiple of 32, or 0 (or at least k) for one group of
 * all k; the last group may be shorter. k is at most 2^19, so that no sum can leave int32, else PC_ERROR_OVERFLOW. */
PC_API pc_status pc_gemm_s4_pack_size(int64_t n, int64_t k, int64_t group_size, size_t* bytes);
/* w [n, (k + 1) / 2]: two values to a byte, in two's complement, -8 to 7, the one of lower k in the low half (as ONNX INT4, but each row begins with
 * a byte of its own); ldn bytes from row to row, 0 for no gap. scale [n, groups], positive and finite. Every byte of packed[bytes] is written, so
 * that it can be stored and mapped again on a CPU of the same kind. */
PC_API pc_status pc_gemm_s4_pack(const uint8_t* w, int64_t n, int64_t k, int64_t ldn, int64_t group_size, const float* scale, void* packed,
                                 size_t bytes);
/* What a packed weight is: checks its header. group_size is rounded up to whole chunks of 32. n, k, group_size and kernel ("gemm_s4/avx2", static
 * memory) may be NULL. */
PC_API pc_status pc_gemm_s4_packed_info(const void* packed, size_t bytes, int64_t* n, int64_t* k, int64_t* group_size, const char** kernel);
/* Bytes of workspace for all nth parts together. */
PC_API pc_status pc_gemm_s4_workspace_size(const pc_gemm_s4_desc* desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes);
/* NaN (and infinity, where a row's range is taken) in float32 x, and a NaN that is to be quantized: PC_ERROR_NONFINITE. */
PC_API pc_status pc_gemm_s4_run(const pc_gemm_s4_desc* desc, const void* packed, size_t bytes, const void* x, void* y, void* workspace,
                                size_t workspace_bytes, int32_t ith, int32_t nth);

/* ---- gemm_f32: the same in float32 ------------------------------------------------------------------------------- */

typedef struct pc_gemm_f32_desc {
  size_t size;
  int64_t m, n, k;
  int64_t ldx, ldy; /* elements from row to row; 0: k and n */
  int64_t ldn, ldk; /* of a weight that is not packed: w[i * ldn + j * ldk]; both 0: k and 1 */
  const float* bias;
  pc_activation activation;
  float low, high;
} pc_gemm_f32_desc;

PC_API pc_status pc_gemm_f32_pack_size(int64_t n, int64_t k, size_t* bytes);
PC_API pc_status pc_gemm_f32_pack(const float* w, int64_t n, int64_t k, int64_t ldn, int64_t ldk, void* packed, size_t bytes);
PC_API pc_status pc_gemm_f32_workspace_size(const pc_gemm_f32_desc* desc, int32_t nth, size_t* workspace_bytes);
/* A weight of float16, as the bits of IEEE half precision; packed it is read by pc_gemm_f32_run, which computes with the same values in float32:
 * the result is that of the float32 weight, to the bit. */
PC_API pc_status pc_gemm_f16_pack_size(int64_t n, int64_t k, size_t* bytes);
PC_API pc_status pc_gemm_f16_pack(const uint16_t* w, int64_t n, int64_t k, int64_t ldn, int64_t ldk, void* packed, size_t bytes);
/* bytes > 0: w is a packed weight of that size, of float32 or float16; bytes = 0: w is a plain float32 array, packed tile by tile on the way, or read
 * where it lies when there are few rows.
 * Each output is summed over k in order, so a row's result does not depend on the other rows. */
PC_API pc_status pc_gemm_f32_run(const pc_gemm_f32_desc* desc, const void* w, size_t bytes, const float* x, float* y, void* workspace,
                                 size_t workspace_bytes, int32_t ith, int32_t nth);

/* ---- pool: what stands between layers: pooling of NHWC images, and the sum of two --------------------------------- */

enum {
  PC_POOL_MAX = 0,           /* over the pixels in the image */
  PC_POOL_AVERAGE = 1,       /* over the pixels in the image */
  PC_POOL_AVERAGE_PADDED = 2 /* over all of the kernel; pixels outside count as zero */
};

typedef struct pc_pool_desc {
  size_t size;
  int64_t batch, height, width, channels; /* of x; y is [batch, out_height, out_width, channels] */
  int64_t out_height, out_width;          /* each window has to begin within the image or in the padding before it */
  int64_t kernel_height, kernel_width, stride_height, stride_width;
  int64_t dilation_height, dilation_width; /* 1 for averages */
  int64_t top, left;                       /* padding, less than the kernel reaches */
  int32_t mode;
  pc_type x_type, y_type; /* PC_F32, PC_U8 or PC_S8, the same; or y_type PC_F32, for averages */
  float x_scale, y_scale; /* averages of 8 bits; both 0: y is quantized as x, with x_zero_point */
  int32_t x_zero_point, y_zero_point;
} pc_pool_desc;

/* Averages of 8 bits: y = clip(round_half_even(float32(sum of (x - x_zero_point)) * (x_scale / y_scale / count)) + y_zero_point). In float32 the sum
 * is taken pixel by pixel, row by row, and divided by the count. Maxima of float32 pass NaN on. Global average: a kernel of the image's size. */
PC_API pc_status pc_pool_run(const pc_pool_desc* desc, const void* x, void* y, int32_t ith, int32_t nth);

typedef struct pc_add_desc {
  size_t size;
  int64_t count;
  pc_type type, y_type;            /* PC_F32, PC_U8 or PC_S8, the same; or y_type PC_F32 */
  float a_scale, b_scale, y_scale; /* 8 bits */
  int32_t a_zero_point, b_zero_point, y_zero_point;
  pc_activation activation; /* PC_ACTIVATION_NONE or PC_ACTIVATION_CLAMP; with y of the operands' type */
  float low, high;
} pc_add_desc;

/* y = a + b. 8 bits: y = clip(round_half_even((a - a_zero_point) * (a_scale / y_scale) + (b - b_zero_point) * (b_scale / y_scale)) + y_zero_point).
 */
PC_API pc_status pc_add_run(const pc_add_desc* desc, const void* a, const void* b, void* y, int32_t ith, int32_t nth);

/* ---- spmm: y[m, n] = x[m, k] * w[n, k]^T with a sparse w, float32 or int8, with the last steps of gemm_f32 and gemm_s8 ---- */

/* As scipy.sparse has it: CSR where the blocks are 1 x 1, else BSR. The last blocks may overhang n and k, with zeros there. */
typedef struct pc_sparse_matrix {
  size_t size;
  pc_type type; /* of data: PC_F32 or PC_S8 */
  int64_t n, k;
  int64_t block_n, block_k;
  int64_t blocks;         /* that are stored */
  const void* data;       /* [blocks][block_n][block_k] */
  const int32_t* indices; /* [blocks]: block columns, ascending within a row of blocks */
  const int32_t* indptr;  /* [ceil(n / block_n) + 1] */
  const float* scale;     /* [n], PC_S8 only; or NULL for ones */
} pc_sparse_matrix;

typedef struct pc_spmm_desc {
  size_t size;
  int64_t m, n, k;
  int64_t ldx, ldy;     /* elements from row to row; 0: contiguous */
  int32_t x_transposed; /* 1: x is [k, m], as the channels of a feature map lie in memory */
  int32_t y_transposed; /* 1: y is [n, m] */
  pc_type x_type;       /* of a float32 weight PC_F32; of an int8 weight PC_F32 (quantized on the fly), PC_U8 or PC_S8 */
  pc_type y_type;       /* of a float32 weight PC_F32; of an int8 weight PC_S32, PC_F32, PC_U8 or PC_S8 */
  float x_scale;        /* of an int8 weight. With PC_F32: 0 means per row, from the data, for x that is not transposed */
  int32_t x_zero_point;
  float y_scale; /* PC_U8 and PC_S8 */
  int32_t y_zero_point;
  const float* bias;        /* [n] or NULL. Not with PC_S32 */
  pc_activation activation; /* not with PC_S32 */
  float low, high;          /* of PC_ACTIVATION_CLAMP */
} pc_spmm_desc;

/* Bytes of the packed form for the active instruction set. The matrix is checked: indices in range, ascending and unique in a row of blocks
 * (PC_ERROR_VALUE), counts that agree (PC_ERROR_SHAPE). */
PC_API pc_status pc_spmm_pack_size(const pc_sparse_matrix* w, size_t* bytes);
/* Every byte of packed[bytes] is written. */
PC_API pc_status pc_spmm_pack(const pc_sparse_matrix* w, void* packed, size_t bytes);
/* What a packed weight is: checks its header. n, k, type and kernel ("sparse_s8/avx2", static memory) may be NULL. */
PC_API pc_status pc_spmm_packed_info(const void* packed, size_t bytes, int64_t* n, int64_t* k, pc_type* type, const char** kernel);
PC_API pc_status pc_spmm_workspace_size(const pc_spmm_desc* desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes);
/* A float32 output is the sum of its stored weights' products in the order of k, each added by a fused multiply-add where gemm_f32 has it. */
PC_API pc_status pc_spmm_run(const pc_spmm_desc* desc, const void* packed, size_t bytes, const void* x, void* y, void* workspace,
                             size_t workspace_bytes, int32_t ith, int32_t nth);

/* ---- conv: convolution, NHWC ------------------------------------------------------------------------------------- */

/* x [batch, height, width, channels], y [batch, oh, ow, outputs], both contiguous. Pixels beyond the image are zeros (for a quantized x its zero
 * point). */
typedef struct pc_conv_desc {
  size_t size;
  int64_t batch, height, width, channels;
  int64_t outputs; /* channels of y; depthwise: a multiple of channels, output i reads channel i / (outputs / channels) */
  int64_t kernel_height, kernel_width;
  int64_t stride_height, stride_width;     /* 0: 1 */
  int64_t dilation_height, dilation_width; /* 0: 1 */
  int64_t pad_top, pad_left, pad_bottom, pad_right;
  pc_type x_type; /* PC_F32, PC_U8 or PC_S8. With an int8 weight PC_F32 is quantized on the way */
  pc_type y_type; /* PC_F32, and with an int8 weight PC_S32, PC_U8 or PC_S8 */
  float x_scale;  /* with an int8 weight: of x, also of a PC_F32 x: pc_range_run and pc_dynamic_qparams give it */
  int32_t x_zero_point;
  float y_scale; /* PC_U8 and PC_S8 */
  int32_t y_zero_point;
  const float* bias;        /* [outputs] or NULL. Not with PC_S32 */
  pc_activation activation; /* not with PC_S32 */
  float low, high;          /* of PC_ACTIVATION_CLAMP */
} pc_conv_desc;

/* oh and ow: 1 + (size + padding - ((kernel - 1) * dilation + 1)) / stride, rounded down. PC_ERROR_SHAPE where the image is smaller than the kernel.
 */
PC_API pc_status pc_conv_output_size(const pc_conv_desc* desc, int64_t* height, int64_t* width);

/* w [outputs, kernel_height, kernel_width], contiguous. w_type PC_S8 or PC_F32. Every size and stride runs; 3x3 and 5x5 with stride 1 or 2 and
 * dilation 1 have kernels of their own. */
PC_API pc_status pc_depthwise_pack_size(pc_type w_type, int64_t outputs, int64_t kernel_height, int64_t kernel_width, size_t* bytes);
/* scale [outputs] of a PC_S8 weight, or NULL for ones. Every byte of packed[bytes] is written. */
PC_API pc_status pc_depthwise_pack(const void* w, pc_type w_type, int64_t outputs, int64_t kernel_height, int64_t kernel_width, const float* scale,
                                   void* packed, size_t bytes);
/* What a packed weight is: checks its header. Each of the results may be NULL; kernel is "depthwise_s8/avx2" or the like, static memory. */
PC_API pc_status pc_depthwise_packed_info(const void* packed, size_t bytes, pc_type* w_type, int64_t* outputs, int64_t* kernel_height,
                                          int64_t* kernel_width, const char** kernel);
PC_API pc_status pc_depthwise_workspace_size(const pc_conv_desc* desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes);
PC_API pc_status pc_depthwise_run(const pc_conv_desc* desc, const void* packed, size_t bytes, const void* x, void* y, void* workspace,
                                  size_t workspace_bytes, int32_t ith, int32_t nth);

/* Dense, by a weight of pc_gemm_s8_pack: [outputs / groups, kernel_height * kernel_width * channels / groups], one for each group, in the order
 * (kernel_height, kernel_width, channels). A call computes the outputs of one group. x_type PC_U8 or PC_S8. w_zero_points: [outputs] or NULL. */
PC_API pc_status pc_conv_s8_workspace_size(const pc_conv_desc* desc, int64_t groups, const void* packed, size_t bytes, int32_t nth,
                                           size_t* workspace_bytes);
PC_API pc_status pc_conv_s8_run(const pc_conv_desc* desc, int64_t group, int64_t groups, const void* packed, size_t bytes,
                                const int32_t* w_zero_points, const void* x, void* y, void* workspace, size_t workspace_bytes, int32_t ith,
                                int32_t nth);

/* Dense, in float32: packed is a weight of pc_gemm_f32_pack or pc_gemm_f16_pack, of the same shape and order. x_type and y_type PC_F32. */
PC_API pc_status pc_conv_f32_workspace_size(const pc_conv_desc* desc, int64_t groups, int32_t nth, size_t* workspace_bytes);
PC_API pc_status pc_conv_f32_run(const pc_conv_desc* desc, int64_t group, int64_t groups, const void* packed, size_t bytes, const float* x, float* y,
                                 void* workspace, size_t workspace_bytes, int32_t ith, int32_t nth);

/* Depthwise, then 1x1: what lies between is never whole in memory, a few rows of it wait in the workspace for their product. */
typedef struct pc_separable_desc {
  size_t size;
  pc_conv_desc depthwise; /* its outputs, y_type, y_scale, y_zero_point, bias and activation are those of what lies between */
  float mid_scale;        /* where that is PC_F32, and pointwise of integers: what it is quantized by, as pc_gemm_s8_desc's x_scale */
  int32_t mid_zero_point;
  int64_t outputs; /* channels of y [batch, oh, ow, outputs] */
  pc_type y_type;  /* as the family of pointwise has it */
  float y_scale;   /* PC_U8 and PC_S8 */
  int32_t y_zero_point;
  const float* bias; /* [outputs] or NULL */
  pc_activation activation;
  float low, high; /* of PC_ACTIVATION_CLAMP */
} pc_separable_desc;

/* depthwise: a weight of pc_depthwise_pack, float32 or int8. pointwise: a weight [outputs, depthwise.outputs] of pc_gemm_f32_pack, pc_gemm_f16_pack,
 * pc_gemm_s8_pack, pc_gemm_s4_pack or pc_spmm_pack. The result has the bits of pc_depthwise_run and the product of its family one after another. */
PC_API pc_status pc_separable_workspace_size(const pc_separable_desc* desc, const void* depthwise, size_t depthwise_bytes, const void* pointwise,
                                             size_t pointwise_bytes, int32_t nth, size_t* workspace_bytes);
PC_API pc_status pc_separable_run(const pc_separable_desc* desc, const void* depthwise, size_t depthwise_bytes, const void* pointwise,
                                  size_t pointwise_bytes, const void* x, void* y, void* workspace, size_t workspace_bytes, int32_t ith, int32_t nth);

/* Rows of the im2col matrix [batch * oh * ow, kernel_height * kernel_width * channels], for a dense convolution by any matrix product: `count` of
 * them from `first` on, of `channels` channels of x from first_channel on. Beyond the image they hold x_zero_point, 0 for PC_F32. out: contiguous, of
 * x's type. */
PC_API pc_status pc_im2col_run(const pc_conv_desc* desc, const void* x, int64_t first_channel, int64_t channels, int64_t first, int64_t count,
                               void* out);

/* q = clip(round_half_even(x * (1 / scale)) + zero_point) as uint8: float32 images are quantized so, by the scale of the whole tensor. */
PC_API pc_status pc_quantize_by_run(const float* x, int64_t count, float scale, int32_t zero_point, uint8_t* y, int32_t ith, int32_t nth);

/* [batch, rows, columns] to [batch, columns, rows], elements of 1 or 4 bytes: NCHW to NHWC with rows the channels, and back. */
PC_API pc_status pc_transpose_run(const void* x, int64_t batch, int64_t rows, int64_t columns, int32_t element, void* y, int32_t ith, int32_t nth);

#ifdef __cplusplus
}
#endif
#endif
