// The driver of the sparse products: checks arguments, cuts x into panels of rows and the weight into chunks of outputs, and calls the kernel
// group by group.
//
// A part turns up to 64 rows of x into a panel (int8: quantized on the way if they are float32) and then takes one chunk of 256 outputs after
// the other over all of it, block by block of k. The sums of a chunk wait in the workspace between blocks; a sum's place there is its
// output's, in whatever order the groups come.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "core/partition.h"
#include "gemm/last_step.h"
#include "gemm/quantized.h"
#include "quant/quant.h"
#include "sparse/packed.h"

namespace pc {
namespace {

constexpr int64_t kRowsAtOnce = 16;              // of x, on their way into a panel
constexpr int64_t kRowsPerPart = 32;             // at least, before the outputs are cut too
constexpr int64_t kQuadBytes = 4 * kSparseRows;  // of a position

struct Call {
  pc_spmm_desc d;
  SparsePacked w;
  int vl;
  const char* x;
  char* y;
  float inverse_x_scale;  // float32 x with a given scale
  float low, high;        // float32: the clamp
  Bounds q;               // uint8, int8: the bounds after the activation's clamp

  bool int8() const { return w.header->type == PC_S8; }
  bool to_q8() const { return d.y_type == PC_U8 || d.y_type == PC_S8; }
};

const SparseFewKernel& few_of(const Call& call) {
  if (!call.int8()) return call.w.kernels->sparse_f32->few;
  const SparseS8Kernel& kernel = *call.w.kernels->sparse_s8;
  if (!call.w.header->columns) return kernel.few;
  return kernel.few_columns_vbmi.multiply[0] && cpu_features().avx512vbmi ? kernel.few_columns_vbmi : kernel.few_columns;
}

// A few rows of x, each contiguous, have kernels of their own.
bool is_few(const Call& call) {
  const pc_spmm_desc& d = call.d;
  if (static_cast<int>(call.w.header->block) > few_of(call).positions) return false;  // packed for another ISA
  if (d.m == 1) return (!d.x_transposed || d.ldx == 1) && (!d.y_transposed || d.ldy == 1);
  return d.m <= few_of(call).rows[call.w.header->shared] && !d.x_transposed && !d.y_transposed;
}

bool is_narrow(const Call& call) { return call.w.header->columns && !is_few(call) && call.d.m <= call.w.kernels->sparse_s8->narrow.rows; }

// A part's own workspace.
struct Workspace {
  int64_t row_bytes;   // of x, quantized, on its way
  int64_t column;      // bytes of a column of the panel
  size_t block_bytes;  // of the panel; of few rows from block to block of one of them
  size_t panel, sum, x_scale, x_zero_point, tile, rows, bytes;
};

Workspace workspace_of(const Call& call) {
  const SparseHeader& h = *call.w.header;
  const SparseLayout& l = call.w.layout;
  Workspace w{};
  const int64_t vectors = divide_up<int64_t>(std::min<int64_t>(call.d.m, kSparseRows), call.vl);
  const bool few = is_few(call);
  w.column = is_narrow(call) ? call.w.kernels->sparse_s8->narrow.rows : kSparseRows;
  const int64_t position = few ? (h.columns ? few_of(call).column_bytes : 4) : h.columns ? w.column : vectors * call.vl * 4;
  w.block_bytes = h.columns && few ? static_cast<size_t>(h.block * position) : round_up(static_cast<size_t>((h.block + 1) * position), kAlignment);
  w.row_bytes = round_up<int64_t>(h.k, kAlignment);
  w.panel = few ? kAlignment : 0;
  w.sum = w.panel + w.block_bytes * static_cast<size_t>(l.blocks * (few ? call.d.m : 1));
  w.x_scale = w.sum + sizeof(int32_t) * kSparseChunk * kSparseRows;
  w.x_zero_point = w.x_scale + sizeof(float) * kSparseRows;
  w.tile = w.x_zero_point + sizeof(int32_t) * kSparseRows;
  w.rows = w.tile + (call.to_q8() && is_curve(call.d.activation) ? sizeof(float) * kSparseChunk * kSparseRows : 0);
  const size_t rows = !call.int8() ? 0 : call.d.x_transposed && !few ? kQuadBytes * 2 : static_cast<size_t>(kRowsAtOnce * w.row_bytes);
  w.bytes = w.rows + round_up(rows, kAlignment);
  return w;
}

pc_status check_types(const pc_spmm_desc& d, bool int8) {
  if (!int8) {
    PC_CHECK(d.x_type == PC_F32 && d.y_type == PC_F32, PC_ERROR_TYPE, "x_type and y_type are %d and %d, wanted PC_F32 for a float32 weight", d.x_type,
             d.y_type);
    PC_CHECK(d.x_scale == 0 && d.y_scale == 0 && d.x_zero_point == 0 && d.y_zero_point == 0, PC_ERROR_VALUE,
             "scales or zero points are given with a float32 weight, which quantizes nothing");
    return PC_OK;
  }
  PC_CHECK(d.x_type == PC_F32 || d.x_type == PC_U8 || d.x_type == PC_S8, PC_ERROR_TYPE, "x_type is %d, wanted PC_F32, PC_U8 or PC_S8", d.x_type);
  PC_CHECK(d.y_type >= PC_F32 && d.y_type <= PC_S32, PC_ERROR_TYPE, "y_type is %d, wanted PC_F32, PC_U8, PC_S8 or PC_S32", d.y_type);
  const Bounds x = bounds_of(d.x_type == PC_S8 ? PC_S8 : PC_U8);
  PC_CHECK(d.x_zero_point >= x.low && d.x_zero_point <= x.high, PC_ERROR_VALUE, "x_zero_point is %d, wanted %d to %d", d.x_zero_point, x.low, x.high);
  if (d.y_type == PC_S32) {
    PC_CHECK(d.x_type != PC_F32, PC_ERROR_TYPE, "y_type is PC_S32, wanted x_type PC_U8 or PC_S8, not PC_F32");
    PC_CHECK(!d.bias && d.activation == PC_ACTIVATION_NONE, PC_ERROR_VALUE, "y_type is PC_S32, which takes neither bias nor activation");
    return PC_OK;
  }
  const bool per_row = d.x_type == PC_F32 && d.x_scale == 0.0f;
  PC_CHECK(positive(d.x_scale) || per_row, PC_ERROR_VALUE, "x_scale is %g, wanted positive and finite", static_cast<double>(d.x_scale));
  PC_CHECK(!per_row || !d.x_transposed, PC_ERROR_VALUE, "x_scale is 0 (per row), wanted a scale for x that is transposed");
  if (d.y_type == PC_F32) return PC_OK;
  PC_CHECK(!per_row, PC_ERROR_VALUE, "x_scale is 0 (per row), which goes with y_type PC_F32 only");
  PC_CHECK(positive(d.y_scale), PC_ERROR_VALUE, "y_scale is %g, wanted positive and finite", static_cast<double>(d.y_scale));
  const Bounds y = bounds_of(d.y_type);
  PC_CHECK(d.y_zero_point >= y.low && d.y_zero_point <= y.high, PC_ERROR_VALUE, "y_zero_point is %d, wanted %d to %d", d.y_zero_point, y.low, y.high);
  return PC_OK;
}

pc_status check_desc(const pc_spmm_desc* desc, const void* packed, size_t bytes, Call* call) {
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(desc->size == sizeof *desc, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", desc->size, sizeof *desc);
  PC_TRY(sparse_open(packed, bytes, &call->w));
  call->vl = call->int8() ? call->w.kernels->sparse_s8->vl : call->w.kernels->sparse_f32->vl;
  pc_spmm_desc& d = call->d;
  d = *desc;
  const SparseHeader& h = *call->w.header;
  PC_CHECK(d.m >= 0 && d.n == h.n && d.k == h.k, PC_ERROR_SHAPE, "m, n, k are %lld, %lld, %lld, wanted m >= 0 and the weight's n and k, %lld, %lld",
           ll(d.m), ll(d.n), ll(d.k), ll(h.n), ll(h.k));
  PC_CHECK((d.x_transposed | 1) == 1 && (d.y_transposed | 1) == 1, PC_ERROR_VALUE, "x_transposed and y_transposed are %d and %d, wanted 0 or 1",
           d.x_transposed, d.y_transposed);
  const int64_t x_row = d.x_transposed ? d.m : d.k, y_row = d.y_transposed ? d.m : d.n;
  if (d.ldx == 0) d.ldx = x_row;
  if (d.ldy == 0) d.ldy = y_row;
  PC_CHECK(d.ldx >= x_row && d.ldy >= y_row, PC_ERROR_SHAPE, "ldx and ldy are %lld and %lld, wanted at least %lld and %lld", ll(d.ldx), ll(d.ldy),
           ll(x_row), ll(y_row));
  PC_TRY(check_rows(d.m));
  if ((d.x_transposed ? d.k : d.m) <= 1) d.ldx = x_row;  // no second row: it leads nowhere
  if ((d.y_transposed ? d.n : d.m) <= 1) d.ldy = y_row;
  PC_TRY(check_types(d, call->int8()));
  return clamp_of(d, &call->low, &call->high);
}

pc_status check_operands(Call* call, size_t bytes, const void* workspace, size_t workspace_bytes, size_t needed) {
  const pc_spmm_desc& d = call->d;
  size_t x_bytes, y_bytes;
  PC_CHECK(span_bytes(d.x_transposed ? d.k : d.m, d.x_transposed ? d.m : d.k, d.ldx, size_of(d.x_type), &x_bytes) &&
               span_bytes(d.y_transposed ? d.n : d.m, d.y_transposed ? d.m : d.n, d.ldy, size_of(d.y_type), &y_bytes),
           PC_ERROR_OVERFLOW, "x [%lld, %lld] or y [%lld, %lld] is larger than memory", ll(d.m), ll(d.k), ll(d.m), ll(d.n));
  PC_CHECK((call->x || !x_bytes) && (call->y || !y_bytes), PC_ERROR_NULL, "%s is NULL", call->x || !x_bytes ? "y" : "x");
  PC_CHECK(is_aligned(call->x, size_of(d.x_type)) && is_aligned(call->y, size_of(d.y_type)) && is_aligned(d.bias, 4), PC_ERROR_ALIGNMENT,
           "x, y or bias is not aligned to its element type");
  return check_memory({call->y, y_bytes}, {{"x", {call->x, x_bytes}}, {"packed", {call->w.header, bytes}}, {"bias", optional_span(d.bias, d.n)}},
                      workspace, workspace_bytes, needed);
}

pc_status prepare_last_step(Call* call) {
  const pc_spmm_desc& d = call->d;
  if (call->int8() && d.x_type == PC_F32 && d.x_scale != 0.0f) {
    call->inverse_x_scale = 1.0f / d.x_scale;
    PC_CHECK(std::isfinite(call->inverse_x_scale), PC_ERROR_VALUE, "x_scale is %g, too small for its inverse to be finite",
             static_cast<double>(d.x_scale));
  }
  if (call->to_q8()) {
    call->q = bounds_of(d.y_type);
    if (d.activation == PC_ACTIVATION_CLAMP)
      call->q = {quantized_bound(d.low, d.y_scale, d.y_zero_point, call->q), quantized_bound(d.high, d.y_scale, d.y_zero_point, call->q)};
  }
  return PC_OK;
}

// What the last step needs of the outputs of a chunk, padded.
struct Outputs {
  alignas(kAlignment) float scale[kSparseChunk];
  alignas(kAlignment) float bias[kSparseChunk];
  alignas(kAlignment) int32_t bias_q[kSparseChunk];
};

pc_status prepare_outputs(const Call& call, int64_t n0, int columns, Outputs* outputs, S8Tile* t) {
  const pc_spmm_desc& d = call.d;
  t->columns = columns;
  t->bias = nullptr;
  t->bias_q = nullptr;
  if (d.bias && !call.to_q8()) {
    std::memset(outputs->bias, 0, sizeof outputs->bias);
    std::memcpy(outputs->bias, d.bias + n0, static_cast<size_t>(columns) * sizeof(float));
    t->bias = outputs->bias;
  }
  if (!call.int8()) return PC_OK;
  const float* w_scale = call.w.scale + n0;
  t->w_sum = call.w.sum + n0;
  t->scale = w_scale;
  if (!call.to_q8()) return PC_OK;
  std::memset(outputs->scale, 0, sizeof outputs->scale);
  std::memset(outputs->bias_q, 0, sizeof outputs->bias_q);
  for (int i = 0; i < columns; ++i) {
    const float scale = d.x_scale * w_scale[i], mult = is_curve(d.activation) ? scale : scale / d.y_scale;
    PC_CHECK(std::isfinite(mult), PC_ERROR_VALUE, "x_scale * w_scale[%lld] / y_scale is %g * %g / %g, which is not finite", ll(n0 + i),
             static_cast<double>(d.x_scale), static_cast<double>(w_scale[i]), static_cast<double>(d.y_scale));
    outputs->scale[i] = mult;
    if (!d.bias) continue;
    const float bias = d.bias[n0 + i], q = bias / scale;
    PC_CHECK(std::isfinite(bias), PC_ERROR_NONFINITE, "bias[%lld] is %g and can't be quantized", ll(n0 + i), static_cast<double>(bias));
    outputs->bias_q[i] = q >= 2147483648.0f ? INT32_MAX : q <= -2147483648.0f ? INT32_MIN : static_cast<int32_t>(std::llrintf(q));
  }
  if (!is_curve(d.activation)) t->scale = outputs->scale;
  if (d.bias) t->bias_q = outputs->bias_q;
  return PC_OK;
}

// One part of the work, in a workspace of its own.
class Part {
 public:
  Part(const Call& call, const Workspace& layout, char* workspace)
      : call_(call),
        d_(call.d),
        h_(*call.w.header),
        kernels_(*call.w.kernels),
        layout_(layout),
        panel_(workspace + layout.panel),
        sum_(reinterpret_cast<int32_t*>(workspace + layout.sum)),
        x_scale_(reinterpret_cast<float*>(workspace + layout.x_scale)),
        x_zero_point_(reinterpret_cast<int32_t*>(workspace + layout.x_zero_point)),
        tile_(reinterpret_cast<float*>(workspace + layout.tile)),
        rows_(reinterpret_cast<uint8_t*>(workspace + layout.rows)),
        few_(is_few(call)),
        narrow_(is_narrow(call)) {}

  pc_status run(const Range& m, const Range& chunks) {
    const int64_t panels = divide_up<int64_t>(m.end - m.begin, kSparseRows);
    for (int64_t i = 0; i < panels; ++i) {
      const Range part = part_of(m.end - m.begin, call_.vl, i, panels);
      m0_ = m.begin + part.begin;
      count_ = static_cast<int>(part.end - part.begin);
      vectors_ = divide_up(count_, call_.vl);
      PC_TRY(make_panel());
      for (int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
        PC_TRY(few_ ? multiply_few(chunk) : multiply(chunk, i == 0));
        PC_TRY(finish(chunk));
      }
    }
    return PC_OK;
  }

 private:
  char* block(int64_t b) const { return panel_ + static_cast<size_t>(b) * layout_.block_bytes; }

  char* position(int64_t p) const {
    const int64_t each = h_.columns ? layout_.column : int64_t{vectors_} * call_.vl * 4;
    return block(p / h_.block) + p % h_.block * each;
  }

  // Dwords of rows [r, r + rows) of the panel, at most kRowsAtOnce, from an array of rows ld dwords apart.
  template <class Kernel> void transpose(const Kernel& kernel, const float* x, int64_t ld, int r, int rows, int64_t count) {
    const int64_t vectors = h_.columns ? layout_.column / call_.vl : vectors_, in_block = h_.columns ? h_.block / 4 : h_.block;
    for (int i = 0; i < rows; i += call_.vl)
      for (int64_t k = 0; k < count; k += in_block)
        kernel.transpose(x + i * ld + k, ld, std::min(call_.vl, rows - i), std::min(in_block, count - k),
                         reinterpret_cast<float*>(block(k / in_block)) + r + i, vectors * call_.vl);
  }

  pc_status make_panel() {
    if (!call_.int8()) {
      make_f32_panel();
      return PC_OK;
    }
    const SparseS8Kernel& kernel = *kernels_.sparse_s8;
    std::fill_n(x_scale_, kSparseRows, d_.x_scale);
    std::fill_n(x_zero_point_, kSparseRows, d_.x_zero_point + (d_.x_type == PC_S8 ? 128 : 0));
    if (few_) {
      PC_TRY(d_.x_type == PC_F32 ? quantize_rows(0, count_) : copy_rows(0, count_));
      make_few(rows_, layout_.row_bytes);
      return PC_OK;
    }
    if (d_.x_transposed) {
      PC_TRY(interleave_rows(kernel));
    } else {
      for (int r = 0; r < count_; r += kRowsAtOnce) {
        const int rows = std::min<int>(kRowsAtOnce, count_ - r);
        PC_TRY(d_.x_type == PC_F32 ? quantize_rows(r, rows) : copy_rows(r, rows));
        transpose(kernel, reinterpret_cast<const float*>(rows_), layout_.row_bytes / 4, r, rows, divide_up<int64_t>(d_.k, 4));
      }
    }
    if (h_.columns)
      for (int64_t k = 0; k < call_.w.layout.positions; k += h_.block)
        (narrow_ ? kernel.narrow.to_columns : kernel.to_columns)(reinterpret_cast<uint8_t*>(position(k)),
                                                                 std::min<int64_t>(h_.block, call_.w.layout.positions - k) / 4);
    return PC_OK;
  }

  char* few_row(int64_t r) const { return panel_ + static_cast<size_t>(r * call_.w.layout.blocks) * layout_.block_bytes; }

  // The rows of x block by block, ld bytes apart: dwords, or columns as the kernel wants them.
  void make_few(const void* x, int64_t ld) {
    const int64_t each = h_.columns ? 1 : 4, length = h_.columns ? d_.k : h_.type == PC_F32 ? d_.k : divide_up<int64_t>(d_.k, 4);
    const bool widen = h_.columns && few_of(call_).column_bytes == 4;
    std::memset(panel_ - kAlignment, 0, kAlignment);
    for (int r = 0; r < count_; ++r) {
      const uint8_t* from = static_cast<const uint8_t*>(x) + r * ld;
      for (int64_t k = 0; k < length; k += h_.block) {
        char* block = few_row(r) + static_cast<size_t>(k / h_.block) * layout_.block_bytes;
        const int64_t count = std::min<int64_t>(h_.block, length - k);
        if (widen)  // with zeros behind, for a read before the next row's first byte
          std::fill(std::copy(from + k, from + k + count, reinterpret_cast<uint32_t*>(block)), reinterpret_cast<uint32_t*>(block) + h_.block, 0u);
        else
          std::memcpy(block, from + each * k, static_cast<size_t>(each * count));
      }
    }
  }

  void make_f32_panel() {
    const float* x = reinterpret_cast<const float*>(call_.x);
    const int64_t lanes = few_ ? 1 : vectors_ * call_.vl;
    if (few_)
      make_few(x, d_.ldx * 4);
    else if (d_.x_transposed)
      for (int64_t k = 0; k < d_.k; ++k) std::memcpy(position(k), x + k * d_.ldx + m0_, static_cast<size_t>(count_) * sizeof(float));
    else
      for (int r = 0; r < count_; r += kRowsAtOnce)
        transpose(*kernels_.sparse_f32, x + (m0_ + r) * d_.ldx, d_.ldx, r, std::min<int>(kRowsAtOnce, count_ - r), d_.k);
    for (int64_t b = 0; b < call_.w.layout.blocks * (few_ ? count_ : 1); ++b)  // the position that fills groups up
      std::memset(block(b) + h_.block * lanes * 4, 0, static_cast<size_t>(lanes) * 4);
  }

  // Rows [r, r + rows) of the panel as bytes in rows_, zeros behind them.
  pc_status copy_rows(int r, int rows) {
    for (int i = 0; i < rows; ++i) {
      uint8_t* row = rows_ + i * layout_.row_bytes;
      copy(call_.x + (m0_ + r + i) * d_.ldx, d_.k, row);
      std::memset(row + d_.k, 0, static_cast<size_t>(layout_.row_bytes - d_.k));
    }
    return PC_OK;
  }

  void copy(const char* x, int64_t count, uint8_t* y) const {
    if (count > 0) std::memcpy(y, x, static_cast<size_t>(count));
    if (d_.x_type == PC_S8)
      for (int64_t i = 0; i < count; ++i) y[i] ^= 0x80;  // + 128
  }

  pc_status quantize_rows(int r, int rows) {
    const float* x = reinterpret_cast<const float*>(call_.x) + (m0_ + r) * d_.ldx;
    const QuantKernel& quant = *kernels_.quant;
    const bool dynamic = d_.x_scale == 0.0f;
    float low[kRowsAtOnce], high[kRowsAtOnce], inverse[kRowsAtOnce];
    std::fill_n(inverse, kRowsAtOnce, call_.inverse_x_scale);
    for (int i = 0; dynamic && i < rows; ++i)
      PC_CHECK(quant.range(x + i * d_.ldx, d_.k, &low[i], &high[i]), PC_ERROR_NONFINITE, "x holds NaN or infinity in row %lld and can't be quantized",
               ll(m0_ + r + i));
    if (dynamic && !quant.row_qparams(low, high, rows, x_scale_ + r, x_zero_point_ + r, inverse)) return too_wide(m0_ + r, low, high);
    for (int i = 0; i < rows; ++i) {
      uint8_t* row = rows_ + i * layout_.row_bytes;
      PC_CHECK(quant.quantize_row(x + i * d_.ldx, d_.k, inverse[i], x_zero_point_[r + i], dynamic, row), PC_ERROR_NONFINITE,
               "x holds NaN in row %lld and can't be quantized", ll(m0_ + r + i));
      std::memset(row + d_.k, 0, static_cast<size_t>(layout_.row_bytes - d_.k));
    }
    return PC_OK;
  }

  // One of the rows from m on has a range whose width is not finite.
  static pc_status too_wide(int64_t m, const float* low, const float* high) {
    int i = 0;
    while (std::isfinite(high[i] - low[i])) ++i;
    return fail(PC_ERROR_NONFINITE, "x goes from %g to %g in row %lld: the width of that range is not finite", static_cast<double>(low[i]),
                static_cast<double>(high[i]), ll(m + i));
  }

  // x is [k, m]: 4 of its rows at a time are a position.
  pc_status interleave_rows(const SparseS8Kernel& kernel) {
    uint8_t* bytes = rows_;
    uint8_t* quads = rows_ + kQuadBytes;
    std::memset(bytes, 0, kQuadBytes);
    for (int64_t k = 0; k < d_.k; k += 4) {
      for (int64_t i = 0; i < 4; ++i) {
        uint8_t* row = bytes + i * kSparseRows;
        const int64_t at = (k + i) * d_.ldx + m0_;
        if (k + i >= d_.k)
          std::memset(row, 0, kSparseRows);
        else if (d_.x_type != PC_F32)
          copy(call_.x + at, count_, row);
        else
          PC_CHECK(
              kernels_.quant->quantize_row(reinterpret_cast<const float*>(call_.x) + at, count_, call_.inverse_x_scale, d_.x_zero_point, false, row),
              PC_ERROR_NONFINITE, "x holds NaN in row %lld and can't be quantized", ll(k + i));
      }
      kernel.interleave(bytes, quads);
      std::memcpy(h_.columns ? position(k) : position(k / 4), quads, static_cast<size_t>(4 * (h_.columns ? layout_.column : vectors_ * call_.vl)));
    }
    return PC_OK;
  }

  pc_status multiply_few(int64_t chunk) {
    const SparseLayout& l = call_.w.layout;
    SparseFew f{};
    f.groups = static_cast<int>(std::min<int64_t>(kSparseChunk, l.np - chunk * kSparseChunk) / kSparseGroup);
    f.blocks = l.blocks;
    f.x = panel_;
    f.block_bytes = static_cast<ptrdiff_t>(layout_.block_bytes);
    f.row_bytes = f.block_bytes * l.blocks;
    f.table = call_.w.table + chunk * (kSparseChunk / kSparseGroup) * l.blocks;
    f.value = call_.w.value;
    f.position = call_.w.position;
    f.rows = count_;
    f.sum = sum_;
    std::memset(sum_, 0, sizeof(int32_t) * static_cast<size_t>(count_) * kSparseSums);
    for (const SparseEntry* entry = f.table; entry < f.table + f.groups * f.blocks; ++entry)
      PC_CHECK(uint64_t{entry->begin} + entry->steps <= h_.steps, PC_ERROR_FORMAT, "packed is damaged: steps that do not exist");
    few_of(call_).multiply[h_.shared](f);
    return PC_OK;
  }

  // The sums of a chunk. check: whether the packed bytes name places that there are, which other panels need not ask again.
  pc_status multiply(int64_t chunk, bool check) {
    const SparseLayout& l = call_.w.layout;
    const int64_t groups = std::min<int64_t>(kSparseChunk, l.np - chunk * kSparseChunk) / kSparseGroup;
    const SparseEntry* entry = call_.w.table + chunk * (kSparseChunk / kSparseGroup) * l.blocks;
    const int form = h_.shared;
    const SparseF32Kernel& f32 = *kernels_.sparse_f32;
    const SparseS8Kernel& s8 = *kernels_.sparse_s8;
    const SparseMultiply run = !call_.int8() ? f32.multiply[form] : (!h_.columns ? s8.quads : narrow_ ? s8.narrow.multiply : s8.columns)[form];
    SparseGroup g{};
    g.vectors = vectors_;
    g.sum = sum_;
    for (int64_t b = 0; b < l.blocks; ++b) {
      g.x = block(b);
      g.first = b == 0;
      for (int64_t i = 0; i < groups; ++i, ++entry) {
        if (entry->steps == 0 && !g.first) continue;
        g.value = call_.w.value + int64_t{entry->begin} * kSparseGroup;
        g.position = call_.w.position + int64_t{entry->begin} * l.units;
        g.steps = entry->steps;
        g.output = entry->output;
        if (check) PC_TRY(check_group(*entry, g));
        run(g);
      }
    }
    return PC_OK;
  }

  pc_status check_group(const SparseEntry& entry, const SparseGroup& g) const {
    // Every output, a byte, is one of the 256 of a chunk.
    bool good = uint64_t{entry.begin} + entry.steps <= h_.steps;
    // Only float32 fills up with the position behind the block's.
    good = good && (entry.steps == 0 || (call_.int8() ? kernels_.sparse_s8->largest : kernels_.sparse_f32->largest)(
                                            g.position, g.steps * call_.w.layout.units) < h_.block + (h_.type == PC_F32 ? 1u : 0u));
    PC_CHECK(good, PC_ERROR_FORMAT, "packed is damaged: steps or positions that do not exist");
    return PC_OK;
  }

  pc_status finish(int64_t chunk) {
    const bool curve = is_curve(d_.activation), q8 = call_.to_q8(), through_tile = curve && q8;
    const int64_t size = static_cast<int64_t>(size_of(d_.y_type)), begin = chunk * kSparseChunk, end = std::min(begin + kSparseChunk, d_.n);
    const SparseFinishFunction run = !call_.int8()         ? kernels_.sparse_f32->finish
                                     : d_.y_type == PC_S32 ? kernels_.sparse_s8->s32
                                     : q8 && !curve        ? kernels_.sparse_s8->q8
                                                           : kernels_.sparse_s8->f32;
    SparseFinish f{};
    f.rows = count_;
    f.by_output = d_.y_transposed && !few_;
    f.few = few_;
    f.t.x_scale = x_scale_;
    f.t.x_zero_point = x_zero_point_;
    f.t.low = q8 && !curve ? static_cast<float>(call_.q.low - d_.y_zero_point) : call_.low;
    f.t.high = q8 && !curve ? static_cast<float>(call_.q.high - d_.y_zero_point) : call_.high;
    f.t.y_zero_point = d_.y_zero_point;
    Outputs outputs;
    PC_TRY(prepare_outputs(call_, begin, static_cast<int>(end - begin), &outputs, &f.t));
    f.sum = sum_;
    char* y = call_.y + (f.by_output ? begin * d_.ldy + m0_ : m0_ * d_.ldy + begin) * size;
    const int64_t ld_tile = f.by_output ? kSparseRows : kSparseChunk, ldy = through_tile ? ld_tile : d_.ldy;
    f.t.y = through_tile ? reinterpret_cast<char*>(tile_) : y;
    f.t.ldy = static_cast<ptrdiff_t>(ldy * (through_tile ? 4 : size));
    run(f);
    if (!curve) return PC_OK;
    const int64_t lines = f.by_output ? f.t.columns : count_, length = f.by_output ? count_ : f.t.columns;
    kernels_.activation->in_place(d_.activation, static_cast<float*>(f.t.y), lines, length, ldy);
    bool finite = true;
    for (int64_t i = 0; through_tile && i < lines; ++i)
      finite &= kernels_.quant->quantize(tile_ + i * ld_tile, length, d_.y_scale, d_.y_zero_point, call_.q.low, call_.q.high, y + i * d_.ldy);
    PC_CHECK(finite, PC_ERROR_NONFINITE, "an activation gave NaN, which can't be quantized: the scales are out of proportion");
    return PC_OK;
  }

  const Call& call_;
  const pc_spmm_desc& d_;
  const SparseHeader& h_;
  const Kernels& kernels_;
  const Workspace& layout_;
  char* panel_;
  int32_t* sum_;
  float* x_scale_;
  int32_t* x_zero_point_;
  float* tile_;
  uint8_t* rows_;
  bool few_, narrow_;
  int64_t m0_ = 0;
  int count_ = 0, vectors_ = 0;
};

// Rows of x are cut first: a cut of the outputs makes two parts build the same panel. Chunks of outputs are cut where the steps before them are the
// part's share.
void cut(const Call& call, int32_t ith, int32_t nth, Range* m, Range* chunks) {
  int64_t cuts = nth;
  while (cuts > 1 && (nth % cuts != 0 || call.d.m < cuts * kRowsPerPart)) --cuts;
  *m = part_of(call.d.m, call.vl, ith % cuts, cuts);
  const SparseLayout& l = call.w.layout;
  const int64_t parts = nth / cuts;
  const auto first_chunk = [&](int64_t part) {
    const double share = static_cast<double>(call.w.header->steps) * static_cast<double>(part) / static_cast<double>(parts);
    int64_t chunk = part == parts ? l.chunks : part == 0 ? 0 : l.chunks * part / parts;
    if (call.w.header->steps > 0 && part > 0 && part < parts) {
      const auto begin = [&](int64_t c) { return static_cast<double>(call.w.table[c * (kSparseChunk / kSparseGroup) * l.blocks].begin); };
      for (chunk = 0; chunk < l.chunks && begin(chunk) < share;) ++chunk;
      if (chunk > 0 && share - begin(chunk - 1) < (chunk < l.chunks ? begin(chunk) : static_cast<double>(call.w.header->steps)) - share) --chunk;
    }
    return chunk;
  };
  *chunks = {first_chunk(ith / cuts), first_chunk(ith / cuts + 1)};
}

}  // namespace
}  // namespace pc

extern "C" {

pc_status pc_spmm_workspace_size(const pc_spmm_desc* desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes) {
  using namespace pc;
  PC_CHECK(workspace_bytes, PC_ERROR_NULL, "workspace_bytes is NULL");
  PC_TRY(check_part(0, nth));
  Call call{};
  PC_TRY(check_desc(desc, packed, bytes, &call));
  return workspace_of_parts(workspace_of(call).bytes, nth, workspace_bytes);
}

pc_status pc_spmm_run(const pc_spmm_desc* desc, const void* packed, size_t bytes, const void* x, void* y, void* workspace, size_t workspace_bytes,
                      int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  Call call{};
  PC_TRY(check_desc(desc, packed, bytes, &call));
  call.x = static_cast<const char*>(x);
  call.y = static_cast<char*>(y);
  const Workspace layout = workspace_of(call);
  size_t needed = 0;
  PC_TRY(workspace_of_parts(layout.bytes, nth, &needed));
  PC_TRY(prepare_last_step(&call));
  PC_TRY(check_operands(&call, bytes, workspace, workspace_bytes, needed));
  set_last_kernel(call.w.kernel);
  if (call.d.n == 0) return PC_OK;  // however many rows
  Range m, chunks;
  cut(call, ith, nth, &m, &chunks);
  return Part(call, layout, static_cast<char*>(workspace) + static_cast<size_t>(ith) * layout.bytes).run(m, chunks);
}
}
