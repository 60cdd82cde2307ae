// The driver of the int4 GEMM: checks arguments, cuts the matrix into blocks for the parts, packs rows of x, and calls the kernel tile by tile.
//
// As the int8 driver, a part packs a block of rows of x and takes one panel of w after the other. A few rows multiply the panel as it is; for more,
// the panel is first expanded to int8, once for the block, into a buffer that stays in L2. The kernel gives float32; the activations that are no
// clamp, and quantization, follow on the tile while it is in L1.
#include <algorithm>
#include <cstring>

#include "core/partition.h"
#include "gemm/last_step.h"
#include "gemm/quantized.h"
#include "gemm/s4_packed.h"

namespace pc {
namespace {

constexpr size_t kRowsBytes = 192 * 1024;  // of packed rows in a block: they share L2 with an expanded panel
constexpr int64_t kMaxTilesInBlock = 24;

// A part's own workspace.
struct Workspace {
  size_t row_bytes;  // from row to row
  int64_t rows;      // of a block
  size_t x_scale, x_zero_point, x_sum, tile, expanded, bytes;
};

Workspace workspace_of(int64_t m, const S4Packed& weight) {
  const GemmS4Kernel& kernel = *weight.kernel;
  Workspace w{};
  // An odd number of cache lines, so that the rows of a tile lie in different sets of L1.
  w.row_bytes = (divide_up(static_cast<size_t>(weight.chunks * kS4Chunk), kAlignment) | 1) * kAlignment;
  const int64_t tiles = std::clamp<int64_t>(static_cast<int64_t>(kRowsBytes / w.row_bytes) / kernel.mr, 1, kMaxTilesInBlock);
  // Blocks of about equal height: a panel is expanded for each.
  const int64_t blocks = std::max<int64_t>(1, divide_up(m, tiles * kernel.mr));
  w.rows = std::max<int64_t>(1, std::min(m, round_up(divide_up(m, blocks), static_cast<int64_t>(kernel.mr))));
  size_t end = 0;
  const auto section = [&end](size_t bytes) {
    const size_t begin = end;
    end = round_up(begin + bytes, kAlignment);
    return begin;
  };
  const size_t rows = static_cast<size_t>(w.rows);
  section(rows * w.row_bytes);
  w.x_scale = section(rows * 4);
  w.x_zero_point = section(rows * 4);
  w.x_sum = section(static_cast<size_t>(std::min<int64_t>(w.rows, kernel.few_rows) * weight.groups) * 4);
  w.tile = section(sizeof(float) * kMaxMr * kMaxNr);
  w.expanded = section(w.rows > kernel.few_rows ? expanded_bytes(weight, kernel.nr) : 0);
  w.bytes = end;
  return w;
}

// A descriptor with its defaults filled in.
struct Call {
  pc_gemm_s4_desc d;
  S4Packed w;
  const char* x;
  char* y;
  float inverse_x_scale;  // float32 x with a given scale
  float low, high;
};

pc_status check_desc(const pc_gemm_s4_desc* desc, const void* packed, size_t bytes, Call* call) {
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(desc->size == sizeof *desc, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", desc->size, sizeof *desc);
  PC_TRY(s4_open(packed, bytes, &call->w));
  pc_gemm_s4_desc& d = call->d;
  d = *desc;
  PC_TRY(check_shape(&d, call->w.header->n, call->w.header->k));
  PC_TRY(check_x_type(d));
  PC_CHECK(d.y_type >= PC_F32 && d.y_type <= PC_S8, PC_ERROR_TYPE, "y_type is %d, wanted PC_F32, PC_U8 or PC_S8", d.y_type);
  PC_TRY(check_qparams(d));
  return clamp_of(d, &call->low, &call->high);
}

// One part of the work, in a workspace of its own.
class Part {
 public:
  Part(const Call& call, const Workspace& layout, char* workspace)
      : call_(call),
        d_(call.d),
        kernel_(*call.w.kernel),
        quant_(*call.w.kernels->quant),
        activation_(*call.w.kernels->activation),
        layout_(layout),
        rows_(workspace),
        x_scale_(reinterpret_cast<float*>(workspace + layout.x_scale)),
        x_zero_point_(reinterpret_cast<int32_t*>(workspace + layout.x_zero_point)),
        x_sum_(reinterpret_cast<int32_t*>(workspace + layout.x_sum)),
        tile_(reinterpret_cast<float*>(workspace + layout.tile)),
        expanded_(workspace + layout.expanded) {}

  pc_status run(const Block& block) {
    for (int64_t m0 = block.m.begin; m0 < block.m.end; m0 += layout_.rows) {
      const int64_t rows = std::min(layout_.rows, block.m.end - m0);
      for (int64_t r = 0; r < rows; r += kRowsAtOnce) PC_TRY(pack_rows(m0 + r, r, static_cast<int>(std::min(kRowsAtOnce, rows - r))));
      for (int64_t r = 0; is_few(rows) && r < rows; ++r)
        kernel_.prepare_few(row(r), call_.w.chunks, call_.w.header->group_chunks, x_sum_ + r * call_.w.groups);
      for (int64_t n0 = block.n.begin; n0 < block.n.end; n0 += kernel_.nr) PC_TRY(run_panel(m0, rows, n0, block.n.end));
    }
    return PC_OK;
  }

 private:
  bool is_few(int64_t rows) const { return rows <= kernel_.few_rows; }

  uint8_t* row(int64_t r) const { return reinterpret_cast<uint8_t*>(rows_) + static_cast<size_t>(r) * layout_.row_bytes; }

  // Rows [m, m + count) of x as uint8, as rows [r, r + count) of the block.
  pc_status pack_rows(int64_t m, int64_t r, int count) {
    const int64_t padded = call_.w.chunks * kS4Chunk;
    if (d_.x_type == PC_F32) {
      const FloatRows x{reinterpret_cast<const float*>(call_.x), d_.ldx, d_.k, d_.x_scale, call_.inverse_x_scale, d_.x_zero_point, false};
      return x.quantize(quant_, m, count, rows_ + static_cast<size_t>(r) * layout_.row_bytes, layout_.row_bytes, padded, x_scale_ + r,
                        x_zero_point_ + r);
    }
    const bool is_signed = d_.x_type == PC_S8;
    for (int i = 0; i < count; ++i) {
      uint8_t* y = row(r + i);
      std::memcpy(y, call_.x + (m + i) * d_.ldx, static_cast<size_t>(d_.k));
      for (int64_t j = 0; is_signed && j < d_.k; ++j) y[j] ^= 0x80;  // + 128
      std::memset(y + d_.k, 0, static_cast<size_t>(padded - d_.k));
      x_scale_[r + i] = d_.x_scale;
      x_zero_point_[r + i] = d_.x_zero_point + (is_signed ? 128 : 0);
    }
    return PC_OK;
  }

  pc_status run_panel(int64_t m0, int64_t rows, int64_t n0, int64_t n_end) {
    const char* packed = call_.w.panels + n0 / kernel_.nr * call_.w.panel_bytes;
    S4Tile t{};
    t.columns = static_cast<int>(std::min<int64_t>(kernel_.nr, n_end - n0));
    t.ldx = static_cast<ptrdiff_t>(layout_.row_bytes);
    t.w = is_few(rows) ? packed : expanded_;
    t.chunks = call_.w.chunks;
    t.group_chunks = call_.w.header->group_chunks;
    t.ld_sum = static_cast<ptrdiff_t>(call_.w.groups);
    t.low = call_.low;
    t.high = call_.high;
    alignas(kAlignment) float bias[kMaxNr] = {};
    if (d_.bias) {
      std::memcpy(bias, d_.bias + n0, static_cast<size_t>(t.columns) * 4);
      t.bias = bias;
    }
    if (!is_few(rows)) kernel_.expand(packed, t.chunks, t.group_chunks, expanded_);
    const bool quantized = d_.y_type != PC_F32;
    const Bounds q = bounds_of(d_.y_type);
    bool no_nan = true;
    for_tiles(rows, is_few(rows) ? kernel_.few_rows : kernel_.mr, [&](int64_t r, int count) {
      t.x = row(r);
      t.x_zero_point = x_zero_point_ + r;
      t.x_scale = x_scale_ + r;
      t.x_sum = x_sum_;  // of few rows, which are one tile
      const int64_t at = (m0 + r) * d_.ldy + n0;
      t.y = quantized ? tile_ : reinterpret_cast<float*>(call_.y) + at;
      t.ldy = quantized ? kMaxNr : d_.ldy;
      (is_few(rows) ? kernel_.few : kernel_.tile)[count - 1](t);
      if (is_curve(d_.activation)) activation_.in_place(d_.activation, t.y, count, t.columns, t.ldy);
      for (int i = 0; quantized && i < count; ++i)
        no_nan &= quant_.quantize(tile_ + i * kMaxNr, t.columns, d_.y_scale, d_.y_zero_point, q.low, q.high, call_.y + at + i * d_.ldy);
    });
    PC_CHECK(no_nan, PC_ERROR_NONFINITE, "a result is NaN, which can't be quantized: the scales are out of proportion, or bias holds NaN");
    return PC_OK;
  }

  const Call& call_;
  const pc_gemm_s4_desc& d_;
  const GemmS4Kernel& kernel_;
  const QuantKernel& quant_;
  const ActivationKernel& activation_;
  const Workspace& layout_;
  char* rows_;
  float* x_scale_;
  int32_t* x_zero_point_;
  int32_t* x_sum_;
  float* tile_;
  char* expanded_;
};

}  // namespace
}  // namespace pc

extern "C" {

pc_status pc_gemm_s4_workspace_size(const pc_gemm_s4_desc* desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes) {
  using namespace pc;
  PC_CHECK(workspace_bytes, PC_ERROR_NULL, "workspace_bytes is NULL");
  PC_TRY(check_part(0, nth));
  Call call{};
  PC_TRY(check_desc(desc, packed, bytes, &call));
  *workspace_bytes = static_cast<size_t>(nth) * workspace_of(call.d.m, call.w).bytes;
  return PC_OK;
}

pc_status pc_gemm_s4_run(const pc_gemm_s4_desc* desc, const void* packed, size_t bytes, const void* x, void* y, void* workspace,
                         size_t workspace_bytes, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  Call call{};
  PC_TRY(check_desc(desc, packed, bytes, &call));
  call.x = static_cast<const char*>(x);
  call.y = static_cast<char*>(y);
  PC_TRY(inverse_of_x_scale(call.d, &call.inverse_x_scale));
  const Workspace layout = workspace_of(call.d.m, call.w);
  Span x_span, y_span;
  PC_TRY(check_operands(call.d, x, y, &x_span, &y_span));
  PC_TRY(check_memory(y_span, {{"x", x_span}, {"packed", {packed, bytes}}, {"bias", optional_span(call.d.bias, call.d.n)}}, workspace,
                      workspace_bytes, static_cast<size_t>(nth) * layout.bytes));
  if (!call.x) call.x = static_cast<const char*>(workspace);  // of k = 0: an address to read nothing from
  const GemmS4Kernel& kernel = *call.w.kernel;
  set_last_kernel(kernel.name);
  if (call.d.n == 0) return PC_OK;  // however many rows
  return Part(call, layout, static_cast<char*>(workspace) + static_cast<size_t>(ith) * layout.bytes)
      .run(block_of(call.d.m, call.d.n, kernel.mr, kernel.nr, ith, nth));
}
}
