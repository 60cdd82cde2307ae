// The driver of the int8 GEMM: checks arguments, cuts the matrix into blocks for the parts, packs rows of x, and calls the kernel tile by tile.
//
// A part packs a block of rows of x (small enough for L2) with its zero points and scales, quantizing float32 on the way, and then takes one
// panel of w after the other over all of the block's tiles: the panel stays in the near caches while it is used, and k is never cut, so the
// accumulators go from first product to last step in registers. Panels that fit L1 together are taken together, so that y is written in long
// runs. uint8 rows that a kernel can read where they are are not packed.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/partition.h"
#include "gemm/last_step.h"
#include "gemm/quantized.h"
#include "gemm/s8_packed.h"
#include "gemm/s8_rows.h"

namespace pc {
namespace {

constexpr size_t kRowsBytes = 192 * 1024;  // of packed rows in a block: they share L2 with a panel of w
constexpr int kMaxTilesInBlock = 24;
constexpr int64_t kFewRowsOfRest = 3;        // fewer are not transposed for the rest of a split weight
constexpr int64_t kPanelsBytes = 16 * 1024;  // of panels taken together: half of the smallest L1
constexpr int kMaxPanels = 8;
constexpr int64_t kTilesOfWide = 4;         // panels of half of kPanelsBytes are widened for as many tiles of rows or more
constexpr int64_t kShortBytes = 16 * 1024;  // of results, by one panel of a short weight and then by the next: they stay in L1
constexpr int64_t kSameSets = 2048;         // rows a multiple of this apart lie in one or two sets of L1: they are packed

// A part's own workspace: rows of x as the kernel wants them, what goes with each row, and one float32 tile.
struct Workspace {
  size_t row_bytes;  // from row to row
  int64_t rows;      // of a block
  size_t x_scale, x_zero_point, x_sum, tile, transposed, rest, wide, gathered, bytes;
};

// Whether panels are widened for that many rows.
bool has_wide(const S8Packed& weight, int64_t rows) {
  return weight.kernel->widen && rows >= kTilesOfWide * weight.kernel->mr && weight.panel_bytes <= kPanelsBytes / 2;
}

// From row to row of gathered bytes that a kernel does not read as they are.
size_t gathered_bytes(int64_t k) { return round_up(static_cast<size_t>(k) + 16, kAlignment); }

Workspace workspace_of(int64_t m, const S8Packed& weight, bool from_source = false) {
  const GemmS8Kernel& kernel = *weight.kernel;
  const int64_t k = weight.header->k;
  Workspace w{};
  // An odd number of cache lines, so that the rows of a tile lie in different sets of L1.
  const size_t lines = divide_up(static_cast<size_t>(round_up(k, int64_t{4})) * static_cast<size_t>(kernel.value_size), kAlignment);
  w.row_bytes = (lines | 1) * kAlignment;
  const int64_t tiles = std::clamp<int64_t>(static_cast<int64_t>(kRowsBytes / w.row_bytes) / kernel.mr, 1, kMaxTilesInBlock);
  w.rows = std::max<int64_t>(1, std::min(m, tiles * kernel.mr));
  const size_t vector_bytes = round_up(static_cast<size_t>(w.rows) * 4, kAlignment);
  w.x_scale = static_cast<size_t>(w.rows) * w.row_bytes;
  w.x_zero_point = w.x_scale + vector_bytes;
  w.x_sum = w.x_zero_point + vector_bytes;
  w.tile = w.x_sum + vector_bytes;
  w.transposed = w.tile + round_up(sizeof(float) * kMaxMr * kMaxNr, kAlignment);
  const bool rest = weight.rest_begin != nullptr, transposed = rest && w.rows >= kFewRowsOfRest;
  const int64_t rest_rows = round_up(w.rows, transposed_together(w.rows));
  w.rest = w.transposed + (transposed ? round_up(static_cast<size_t>(rest_rows * k), kAlignment) : 0);
  w.wide = w.rest + (rest ? static_cast<size_t>(rest_rows * kernel.nr) * 4 : 0);
  w.gathered = w.wide + (has_wide(weight, w.rows) ? static_cast<size_t>(2 * kPanelsBytes) : 0);
  w.bytes = w.gathered + (from_source && kernel.group == 2 ? static_cast<size_t>(kRowsAtOnce) * gathered_bytes(k) : 0);
  return w;
}

// A descriptor with its defaults filled in and its last step worked out.
struct Call {
  pc_gemm_s8_desc d;
  S8Packed w;
  const char* x;
  const S8Rows* source;  // instead of x, or nullptr
  char* y;
  float inverse_x_scale;  // float32 x with a given scale
  float low, high;        // float32: the clamp
  Bounds q;               // uint8, int8: the bounds after the activation's clamp
  bool direct;            // the kernel reads x where it is
};

pc_status check_types(const pc_gemm_s8_desc& d) {
  PC_TRY(check_x_type(d));
  PC_CHECK(d.y_type >= PC_F32 && d.y_type <= PC_S32, PC_ERROR_TYPE, "y_type is %d, wanted PC_F32, PC_U8, PC_S8 or PC_S32", d.y_type);
  if (d.y_type == PC_S32) {
    PC_CHECK(d.x_type != PC_F32, PC_ERROR_TYPE, "y_type is PC_S32, wanted x_type PC_U8 or PC_S8, not PC_F32");
    PC_CHECK(!d.bias && d.activation == PC_ACTIVATION_NONE, PC_ERROR_VALUE, "y_type is PC_S32, which takes neither bias nor activation");
    return PC_OK;
  }
  PC_CHECK(!d.x_zero_points, PC_ERROR_VALUE, "x_zero_points are taken with y_type PC_S32 only");
  return check_qparams(d);
}

pc_status check_desc(const pc_gemm_s8_desc* desc, const void* packed, size_t bytes, Call* call) {
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(desc->size == sizeof *desc, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", desc->size, sizeof *desc);
  PC_TRY(s8_open(packed, bytes, &call->w));
  pc_gemm_s8_desc& d = call->d;
  d = *desc;
  const S8Header& h = *call->w.header;
  PC_TRY(check_shape(&d, h.n, h.k));
  PC_TRY(s8_check_k(d.k, h.w_unsigned || d.w_zero_points));
  PC_TRY(check_types(d));
  return clamp_of(d, &call->low, &call->high);
}

pc_status prepare_last_step(Call* call) {
  const pc_gemm_s8_desc& d = call->d;
  PC_TRY(inverse_of_x_scale(d, &call->inverse_x_scale));
  if (d.y_type == PC_U8 || d.y_type == PC_S8) {
    call->q = bounds_of(d.y_type);
    if (d.activation == PC_ACTIVATION_CLAMP)
      call->q = {quantized_bound(d.low, d.y_scale, d.y_zero_point, call->q), quantized_bound(d.high, d.y_scale, d.y_zero_point, call->q)};
  }
  return PC_OK;
}

// Whether rows of x are what the kernel wants: uint8, groups of 4 whole and aligned.
bool is_direct(const Call& call) {
  const pc_gemm_s8_desc& d = call.d;
  return d.x_type == PC_U8 && call.w.kernel->group == 4 && d.k % 4 == 0 && d.ldx % 4 == 0 && is_aligned(call.x, 4) &&
         (d.ldx % kSameSets != 0 || d.m == 1);
}

// One zero point for all rows of x, which goes into the start of the accumulators.
bool has_one_zero_point(const pc_gemm_s8_desc& d) { return !d.x_zero_points && (d.x_type != PC_F32 || d.x_scale != 0.0f); }

// A tile with what it takes of its panel filled in, and the arrays for that, padded to nr outputs.
struct Panel {
  S8Tile tile;
  int64_t n0;
  alignas(kAlignment) int32_t start[kMaxNr];
  alignas(kAlignment) float scale[kMaxNr];
  alignas(kAlignment) float bias[kMaxNr];
  alignas(kAlignment) int32_t bias_q[kMaxNr];
  alignas(kAlignment) int32_t w_zero_point[kMaxNr];
};

// start = bias_q - zero point * w_sum. A bias that could make the sum leave int32 is not part of it: it is added last, with saturation.
void prepare_start(const Call& call, int columns, Panel* panel) {
  const pc_gemm_s8_desc& d = call.d;
  S8Tile* t = &panel->tile;
  if (!has_one_zero_point(d)) return;
  const bool wide = d.w_zero_points || call.w.header->w_unsigned;
  int64_t largest_bias = 0;
  for (int i = 0; t->bias_q && i < columns; ++i) largest_bias = std::max(largest_bias, std::abs(int64_t{t->bias_q[i]}));
  const bool with_bias = t->bias_q && largest_bias + d.k * 255 * (wide ? 255 : 128) <= INT32_MAX;
  // Groups of 2 have the zero point off already.
  const uint32_t zero_point = call.w.kernel->group == 2 ? 0u : static_cast<uint32_t>(d.x_zero_point + (d.x_type == PC_S8 ? 128 : 0));
  // Nothing to start from, or not worth it for the one tile that there is.
  if (!with_bias && (call.w.kernel->group == 2 || d.m <= call.w.kernel->mr)) return;
  const int nr = call.w.header->nr;
  for (int i = 0; i < nr; ++i) panel->start[i] = static_cast<int32_t>(0 - zero_point * static_cast<uint32_t>(t->w_sum[i]));
  for (int i = 0; with_bias && i < nr; ++i)
    panel->start[i] = static_cast<int32_t>(static_cast<uint32_t>(panel->start[i]) + static_cast<uint32_t>(t->bias_q[i]));
  t->start = panel->start;
  if (with_bias) t->bias_q = nullptr;
}

// Whether every sum times its multiplier can be converted to int32.
bool fits(const Call& call, const Panel& panel, int columns) {
  const bool wide = call.d.w_zero_points || call.w.header->w_unsigned;
  const double most = static_cast<double>(call.d.k) * 255 * (wide ? 255 : 128);
  for (int i = 0; i < columns; ++i)
    if ((most + std::abs(static_cast<double>(panel.bias_q[i]))) * static_cast<double>(panel.scale[i]) >= 1 << 30) return false;
  return true;
}

// What most panels are, by a kernel: bytes from bytes, with multipliers and starts that cannot leave int32. False for all else.
bool prepare_plain(const Call& call, int columns, Panel* panel) {
  const pc_gemm_s8_desc& d = call.d;
  S8Tile* t = &panel->tile;
  if (d.w_zero_points || call.w.header->w_unsigned || !has_one_zero_point(d)) return false;
  Requantization p{};
  p.scale = call.w.scale + panel->n0;
  p.sum = t->w_sum;
  p.bias = d.bias ? d.bias + panel->n0 : nullptr;
  p.count = columns;
  p.x_scale = d.x_scale;
  p.y_scale = d.y_scale;
  p.x_zero_point = call.w.kernel->group == 2 ? 0 : d.x_zero_point + (d.x_type == PC_S8 ? 128 : 0);
  p.most = static_cast<float>(d.k * 255 * 128);
  p.mult = panel->scale;
  p.bias_q = panel->bias_q;
  p.start = panel->start;
  bool safe = false;
  if (!call.w.kernels->quant->requantization(p, &safe) || !safe) return false;
  for (int i = columns; i < call.w.header->nr; ++i) panel->scale[i] = 0, panel->start[i] = 0;
  t->scale = panel->scale;
  t->start = panel->start;
  return t->plain = true;
}

void prepare_range(const Call& call, S8Tile* t) {
  const pc_gemm_s8_desc& d = call.d;
  const bool to_levels = (d.y_type == PC_U8 || d.y_type == PC_S8) && !is_curve(d.activation);
  t->y_zero_point = d.y_zero_point;
  t->low = to_levels ? static_cast<float>(call.q.low - d.y_zero_point) : call.low;
  t->high = to_levels ? static_cast<float>(call.q.high - d.y_zero_point) : call.high;
  t->clamp = d.activation == PC_ACTIVATION_CLAMP;
  const int to_unsigned = d.y_type == PC_S8 ? 128 : 0;
  t->bytes = {static_cast<int16_t>(d.y_zero_point + to_unsigned), static_cast<uint8_t>(call.q.low + to_unsigned),
              static_cast<uint8_t>(call.q.high + to_unsigned), static_cast<uint8_t>(to_unsigned)};
}

pc_status prepare_panel(const Call& call, int64_t n0, int columns, Panel* panel) {
  const pc_gemm_s8_desc& d = call.d;
  panel->n0 = n0;
  S8Tile* t = &panel->tile;
  t->start = t->bias_q = t->w_zero_point = nullptr;
  t->bias = nullptr;
  const int nr = call.w.header->nr;
  const float* w_scale = call.w.scale + n0;
  const bool to_q8 = d.y_type == PC_U8 || d.y_type == PC_S8;
  t->w = call.w.panels + n0 / nr * call.w.panel_bytes;
  t->w_sum = call.w.sum + n0;
  t->steps = call.w.steps;
  t->columns = columns;
  prepare_range(call, t);
  if (to_q8 && !is_curve(d.activation) && prepare_plain(call, columns, panel)) return PC_OK;
  t->start = nullptr;
  t->scale = w_scale;
  for (int i = 0; to_q8 && i < nr; ++i) {  // beyond n the scales are 0
    const float scale = d.x_scale * w_scale[i], mult = is_curve(d.activation) ? scale : scale / d.y_scale;
    PC_CHECK(std::isfinite(mult), PC_ERROR_VALUE, "x_scale * w_scale[%lld] / y_scale is %g * %g / %g, which is not finite", ll(n0 + i),
             static_cast<double>(d.x_scale), static_cast<double>(w_scale[i]), static_cast<double>(d.y_scale));
    panel->scale[i] = mult;
  }
  if (to_q8 && !is_curve(d.activation)) t->scale = panel->scale;
  std::memset(panel->bias_q, 0, sizeof panel->bias_q);
  if (d.bias && to_q8) {
    for (int i = 0; i < columns; ++i) {
      const float bias = d.bias[n0 + i], q = bias / (d.x_scale * w_scale[i]);
      PC_CHECK(std::isfinite(bias), PC_ERROR_NONFINITE, "bias[%lld] is %g and can't be quantized", ll(n0 + i), static_cast<double>(bias));
      panel->bias_q[i] = q >= 2147483648.0f ? INT32_MAX : q <= -2147483648.0f ? INT32_MIN : static_cast<int32_t>(std::llrintf(q));
    }
    t->bias_q = panel->bias_q;
  } else if (d.bias && columns < nr) {
    std::memset(panel->bias, 0, sizeof panel->bias);
    std::memcpy(panel->bias, d.bias + n0, static_cast<size_t>(columns) * 4);
    t->bias = panel->bias;
  } else if (d.bias) {
    t->bias = d.bias + n0;
  }
  if (d.w_zero_points || call.w.header->w_unsigned) {
    const Bounds w = bounds_of(call.w.header->w_unsigned ? PC_U8 : PC_S8);
    std::memset(panel->w_zero_point, 0, sizeof panel->w_zero_point);
    for (int i = 0; i < columns; ++i) {
      const int32_t zero_point = d.w_zero_points ? d.w_zero_points[n0 + i] : 0;
      PC_CHECK(zero_point >= w.low && zero_point <= w.high, PC_ERROR_VALUE, "w_zero_points[%lld] is %d, wanted %d to %d", ll(n0 + i), zero_point,
               w.low, w.high);
      panel->w_zero_point[i] = zero_point - (call.w.header->w_unsigned ? 128 : 0);
    }
    t->w_zero_point = panel->w_zero_point;
  }
  prepare_start(call, columns, panel);
  const bool curve = is_curve(d.activation);
  t->plain = !t->bias_q && (to_q8 && !curve ? fits(call, *panel, columns) : columns == nr);
  return PC_OK;
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
        workspace_(workspace),
        x_scale_(reinterpret_cast<float*>(workspace + layout.x_scale)),
        x_zero_point_(reinterpret_cast<int32_t*>(workspace + layout.x_zero_point)),
        x_sum_(reinterpret_cast<int32_t*>(workspace + layout.x_sum)),
        tile_(reinterpret_cast<float*>(workspace + layout.tile)),
        transposed_(reinterpret_cast<uint8_t*>(workspace + layout.transposed)),
        rest_(reinterpret_cast<int32_t*>(workspace + layout.rest)),
        wide_(reinterpret_cast<int16_t*>(workspace + layout.wide)),
        gathered_(workspace + layout.gathered) {}

  pc_status run(const Block& block) {
    if (d_.x_type != PC_F32) {
      std::fill_n(x_scale_, layout_.rows, d_.x_scale);
      std::fill_n(x_zero_point_, layout_.rows, d_.x_zero_point + to_unsigned());
    }
    for (int64_t m0 = block.m.begin; m0 < block.m.end; m0 += layout_.rows) {
      const int64_t rows = std::min(layout_.rows, block.m.end - m0);
      rows_ = call_.direct ? const_cast<char*>(call_.x) + m0 * d_.ldx : workspace_;
      row_bytes_ = static_cast<ptrdiff_t>(call_.direct ? d_.ldx : static_cast<int64_t>(layout_.row_bytes));
      for (int64_t r = 0; r < rows; r += kRowsAtOnce) PC_TRY(pack_rows(m0 + r, r, static_cast<int>(std::min(kRowsAtOnce, rows - r))));
      if (has_transposed(rows)) kernel_.transpose_rows(rows_, row_bytes_, rows, d_.k, transposed_);
      const int64_t together = panels_together();
      for (int64_t n0 = block.n.begin; n0 < block.n.end; n0 += together * kernel_.nr)
        PC_TRY(run_panels(m0, rows, n0, std::min(block.n.end, n0 + together * kernel_.nr)));
    }
    return PC_OK;
  }

 private:
  // The rest of a split weight is worked out for one panel at a time.
  int64_t panels_together() const {
    return call_.w.rest_begin ? 1 : std::clamp<int64_t>(kPanelsBytes / std::max<int64_t>(call_.w.panel_bytes, 1), 1, kMaxPanels);
  }

  int64_t padded_k() const { return call_.w.steps * kernel_.group; }

  bool is_signed() const { return d_.x_type == PC_S8; }
  int32_t to_unsigned() const { return is_signed() ? 128 : 0; }
  bool has_sums() const { return d_.w_zero_points || call_.w.header->w_unsigned; }

  // Rows [m, m + count) of x, quantized if they are float32, as rows [r, r + count) of the block.
  pc_status pack_rows(int64_t m, int64_t r, int count) {
    if (call_.source) {
      gather_rows(m, r, count);
      return PC_OK;
    }
    if (d_.x_type == PC_F32) return quantize_rows(m, r, count);
    if (d_.x_zero_points) {
      for (int i = 0; i < count; ++i) PC_TRY(pack_row(m + i, r + i));
      return PC_OK;
    }
    const char* x = call_.x + m * d_.ldx;
    if (!call_.direct) kernel_.pack_rows_8(x, d_.ldx, count, is_signed(), d_.k, d_.x_zero_point, row(r), row_bytes_, padded_k());
    for (int i = 0; has_sums() && i < count; ++i) sum_row(x + i * d_.ldx, r + i);
    return PC_OK;
  }

  // Rows of bytes that somebody else writes: where the kernel reads bytes, at once in their place.
  void gather_rows(int64_t m, int64_t r, int count) {
    const bool in_place = kernel_.group == 4;
    const size_t stride = in_place ? layout_.row_bytes : gathered_bytes(d_.k);
    call_.source->write(call_.source->context, m, count, in_place ? row(r) : gathered_, stride);
    if (!in_place)
      kernel_.pack_rows_8(gathered_, static_cast<ptrdiff_t>(stride), count, is_signed(), d_.k, d_.x_zero_point, row(r), row_bytes_, padded_k());
    for (int i = 0; in_place && is_signed() && i < count; ++i)
      for (int64_t j = 0; j < d_.k; ++j) row(r + i)[j] = static_cast<char>(row(r + i)[j] ^ 0x80);
    for (int64_t j = d_.k; in_place && j < padded_k(); ++j)
      for (int i = 0; i < count; ++i) row(r + i)[j] = 0;
    for (int i = 0; has_sums() && i < count; ++i) sum_packed_row(row(r + i), r + i);
  }

  bool has_transposed(int64_t rows) const { return call_.w.rest_begin && rows >= kFewRowsOfRest; }

  char* row(int64_t r) const { return rows_ + r * row_bytes_; }

  // A row with a zero point of its own.
  pc_status pack_row(int64_t m, int64_t r) {
    const char* x = call_.x + m * d_.ldx;
    const Bounds b = bounds_of(d_.x_type);
    const int32_t zero_point = d_.x_zero_points[m];
    PC_CHECK(zero_point >= b.low && zero_point <= b.high, PC_ERROR_VALUE, "x_zero_points[%lld] is %d, wanted %d to %d", ll(m), zero_point, b.low,
             b.high);
    if (!call_.direct) kernel_.pack_rows_8(x, d_.ldx, 1, is_signed(), d_.k, zero_point, row(r), row_bytes_, padded_k());
    x_zero_point_[r] = zero_point + to_unsigned();
    if (has_sums()) sum_row(x, r);
    return PC_OK;
  }

  pc_status quantize_rows(int64_t m, int64_t r, int count) {
    const FloatRows x{reinterpret_cast<const float*>(call_.x), d_.ldx, d_.k, d_.x_scale, call_.inverse_x_scale, d_.x_zero_point, kernel_.group == 2};
    PC_TRY(x.quantize(quant_, m, count, row(r), row_bytes_, padded_k(), x_scale_ + r, x_zero_point_ + r));
    for (int i = 0; has_sums() && i < count; ++i) sum_packed_row(row(r + i), r + i);
    return PC_OK;
  }

  // Sums of x - zero point over k.
  void sum_row(const char* x, int64_t r) {
    int32_t sum = 0;
    if (is_signed())
      for (int64_t i = 0; i < d_.k; ++i) sum += reinterpret_cast<const int8_t*>(x)[i] + 128;
    else
      for (int64_t i = 0; i < d_.k; ++i) sum += reinterpret_cast<const uint8_t*>(x)[i];
    x_sum_[r] = sum - static_cast<int32_t>(d_.k) * x_zero_point_[r];
  }

  void sum_packed_row(const char* row, int64_t r) {
    int32_t sum = 0;
    if (kernel_.group == 4) {
      for (int64_t i = 0; i < d_.k; ++i) sum += reinterpret_cast<const uint8_t*>(row)[i];
      sum -= static_cast<int32_t>(d_.k) * x_zero_point_[r];
    } else {
      for (int64_t i = 0; i < d_.k; ++i) sum += reinterpret_cast<const int16_t*>(row)[i];
    }
    x_sum_[r] = sum;
  }

  // What was taken out of a split weight, for the block's rows by one panel.
  void multiply_rest(int64_t rows, int64_t n0) {
    S8Rest t{};
    const uint32_t* bounds = call_.w.rest_begin + n0 / kernel_.nr;
    const uint32_t count = call_.w.header->rest_count, first = std::min(bounds[0], count);  // whatever a damaged file says
    t.begin = call_.w.rest + first;
    t.end = call_.w.rest + std::clamp(bounds[1], first, count);
    t.x = rows_;
    t.ldx = row_bytes_;
    t.transposed = has_transposed(rows) ? transposed_ : nullptr;
    t.k = d_.k;
    t.rows = rows;
    t.out = rest_;
    kernel_.rest(t);
  }

  // The block's rows by the panels of outputs [begin, end), which are kMaxPanels at the most.
  pc_status run_panels(int64_t m0, int64_t rows, int64_t begin, int64_t end) {
    const bool to_q8 = d_.y_type == PC_U8 || d_.y_type == PC_S8, curve = is_curve(d_.activation);
    const int64_t y_size = static_cast<int64_t>(size_of(d_.y_type));
    const bool wide = has_wide(call_.w, layout_.rows);
    const S8Tiles& all = wide ? kernel_.wide : kernel_.tiles;
    const S8TileFunction* tiles = d_.y_type == PC_S32 ? all.s32 : to_q8 && !curve ? all.q8 : all.f32;
    if (prepared_ != begin) {
      prepared_count_ = 0;
      for (int64_t n0 = begin; n0 < end; n0 += kernel_.nr) {
        Panel& panel = panels_[prepared_count_++];
        PC_TRY(prepare_panel(call_, n0, static_cast<int>(std::min<int64_t>(kernel_.nr, end - n0)), &panel));
        panel.tile.ldx = row_bytes_;
        if (!wide) continue;
        int16_t* place = wide_ + (prepared_count_ - 1) * call_.w.panel_bytes;
        kernel_.widen(panel.tile.w, call_.w.panel_bytes, place);
        panel.tile.w = reinterpret_cast<const int8_t*>(place);
      }
      prepared_ = begin;
    }
    if (call_.w.rest_begin) multiply_rest(rows, begin);
    bool finite = true;
    const bool to_bytes = to_q8 && !curve;
    const S8TileFunction* functions[kMaxPanels];
    for (int i = 0; i < prepared_count_; ++i) {
      S8Tile& t = panels_[i].tile;
      t.ldy = static_cast<ptrdiff_t>(d_.ldy * y_size);
      functions[i] = to_bytes && is_half(t) && all.q8_half[0] ? all.q8_half : tiles;
    }
    const auto tile_at = [&](int64_t r, int i) -> S8Tile& {
      S8Tile& t = panels_[i].tile;
      t.x = row(r);
      t.x_zero_point = x_zero_point_ + r;
      t.x_sum = x_sum_ + r;
      t.rest = call_.w.rest_begin ? rest_ + r * kernel_.nr : nullptr;
      t.x_scale = x_scale_ + r;
      t.y = call_.y + ((m0 + r) * d_.ldy + panels_[i].n0) * y_size;
      return t;
    };
    if (to_bytes && short_panels()) {
      const int64_t steps = call_.w.steps, most = std::max<int64_t>(kShortBytes / ((end - begin) * 16), 1) * 16;
      for (int64_t r = 0; r < rows; r += most)
        for (int i = 0; i < prepared_count_; ++i) {
          const S8Tile& t = tile_at(r, i);
          (is_half(t) ? kernel_.q8_short_half : kernel_.q8_short)[steps - 1](t, std::min(most, rows - r));
        }
      return PC_OK;
    }
    for_tiles(rows, kernel_.mr, [&](int64_t r, int tile_rows) {
      for (int i = 0; i < prepared_count_; ++i) {
        S8Tile& t = tile_at(r, i);
        if (curve)
          finite &= run_curve(t, tile_rows, all.f32);
        else
          functions[i][tile_rows - 1](t);
      }
    });
    PC_CHECK(finite, PC_ERROR_NONFINITE, "an activation gave NaN, which can't be quantized: the scales are out of proportion");
    return PC_OK;
  }

  bool is_half(const S8Tile& t) const { return t.plain && 2 * t.columns <= kernel_.nr; }

  // Whether the prepared panels can all be taken by the kernel that keeps the weight in registers.
  bool short_panels() const {
    if (call_.w.steps < 1 || call_.w.steps > kShortSteps || !kernel_.q8_short[call_.w.steps - 1]) return false;
    return std::all_of(panels_, panels_ + prepared_count_, [](const Panel& p) { return p.tile.plain && p.tile.start && !p.tile.w_zero_point; });
  }

  // A tile with an activation that is no clamp: in place if the result is float32, else by way of a float32 tile.
  bool run_curve(S8Tile& t, int rows, const S8TileFunction* to_f32) {
    char* y = static_cast<char*>(t.y);
    const ptrdiff_t ldy = t.ldy;
    const bool to_q8 = d_.y_type != PC_F32;
    if (to_q8) {
      t.y = tile_;
      t.ldy = static_cast<ptrdiff_t>(kMaxNr * sizeof(float));
    }
    to_f32[rows - 1](t);
    const ptrdiff_t ld_tile = t.ldy / static_cast<ptrdiff_t>(sizeof(float));
    activation_.in_place(d_.activation, static_cast<float*>(t.y), rows, t.columns, ld_tile);
    t.ldy = ldy;
    bool finite = true;
    for (int i = 0; to_q8 && i < rows; ++i)
      finite &= quant_.quantize(tile_ + i * ld_tile, t.columns, d_.y_scale, d_.y_zero_point, call_.q.low, call_.q.high, y + i * ldy);
    return finite;
  }

  const Call& call_;
  const pc_gemm_s8_desc& d_;
  const GemmS8Kernel& kernel_;
  const QuantKernel& quant_;
  const ActivationKernel& activation_;
  const Workspace& layout_;
  char* const workspace_;
  char* rows_ = nullptr;  // of the block, as the kernel wants them
  ptrdiff_t row_bytes_ = 0;
  float* x_scale_;
  int32_t* x_zero_point_;
  int32_t* x_sum_;
  float* tile_;
  uint8_t* transposed_;
  int32_t* rest_;
  int16_t* wide_;
  char* gathered_;
  int64_t prepared_ = -1;  // the first output of the panels below
  int prepared_count_ = 0;
  Panel panels_[kMaxPanels];
};

pc_status run_part(Call* call, size_t bytes, void* workspace, size_t workspace_bytes, int32_t ith, int32_t nth) {
  const GemmS8Kernel& kernel = *call->w.kernel;
  const Workspace layout = workspace_of(call->d.m, call->w, call->source != nullptr);
  pc_gemm_s8_desc checked = call->d;
  if (call->source) checked.k = 0;  // its owner has checked x
  Span x, y;
  PC_TRY(check_operands(checked, call->x, call->y, &x, &y));
  if (call->source) x = call->source->x, y = call->source->y;
  PC_TRY(prepare_last_step(call));
  PC_CHECK(is_aligned(checked.x_zero_points, alignof(int32_t)) && is_aligned(checked.w_zero_points, alignof(int32_t)), PC_ERROR_ALIGNMENT,
           "x_zero_points or w_zero_points is not aligned to int32");
  PC_TRY(check_memory(y,
                      {{"x", x},
                       {"packed", {call->w.header, bytes}},
                       {"bias", optional_span(checked.bias, checked.n)},
                       {"x_zero_points", optional_span(checked.x_zero_points, checked.m)},
                       {"w_zero_points", optional_span(checked.w_zero_points, checked.n)}},
                      workspace, workspace_bytes, static_cast<size_t>(nth) * layout.bytes));
  if (!call->x) call->x = static_cast<const char*>(workspace);  // of k = 0: an address to read nothing from
  call->direct = !call->source && is_direct(*call);
  set_last_kernel(kernel.name);
  if (checked.n == 0) return PC_OK;  // however many rows
  return Part(*call, layout, static_cast<char*>(workspace) + static_cast<size_t>(ith) * layout.bytes)
      .run(block_of(call->d.m, call->d.n, kernel.mr, kernel.nr, ith, nth));
}

}  // namespace

pc_status gemm_s8_rows_workspace_size(const pc_gemm_s8_desc& desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes) {
  Call call{};
  PC_TRY(check_desc(&desc, packed, bytes, &call));
  *workspace_bytes = static_cast<size_t>(nth) * workspace_of(call.d.m, call.w, true).bytes;
  return PC_OK;
}

pc_status gemm_s8_rows_run(const pc_gemm_s8_desc& desc, const void* packed, size_t bytes, const S8Rows& rows, void* y, void* workspace,
                           size_t workspace_bytes, int32_t ith, int32_t nth) {
  Call call{};
  PC_TRY(check_desc(&desc, packed, bytes, &call));
  call.source = &rows;
  call.y = static_cast<char*>(y);
  return run_part(&call, bytes, workspace, workspace_bytes, ith, nth);
}

}  // namespace pc

extern "C" {

pc_status pc_gemm_s8_workspace_size(const pc_gemm_s8_desc* desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes) {
  using namespace pc;
  PC_CHECK(workspace_bytes, PC_ERROR_NULL, "workspace_bytes is NULL");
  PC_TRY(check_part(0, nth));
  Call call{};
  PC_TRY(check_desc(desc, packed, bytes, &call));
  *workspace_bytes = static_cast<size_t>(nth) * workspace_of(call.d.m, call.w).bytes;
  return PC_OK;
}

pc_status pc_gemm_s8_run(const pc_gemm_s8_desc* desc, const void* packed, size_t bytes, const void* x, void* y, void* workspace,
                         size_t workspace_bytes, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  Call call{};
  PC_TRY(check_desc(desc, packed, bytes, &call));
  call.x = static_cast<const char*>(x);
  call.y = static_cast<char*>(y);
  return run_part(&call, bytes, workspace, workspace_bytes, ith, nth);
}
}
