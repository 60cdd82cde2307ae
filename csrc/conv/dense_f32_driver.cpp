// The dense float32 convolution: the float32 GEMM over some rows of the im2col matrix at a time, which are multiplied while they are in L2. Where the
// image is that matrix (1 x 1, stride 1, no padding) it is multiplied where it lies.
#include "conv/im2col.h"
#include "core/partition.h"
#include "gemm/f32_packed.h"

namespace pc {
namespace {

constexpr int64_t kTileBytes = 160 * 1024;  // of rows that wait for their product: they share L2 with a panel of the weight
constexpr int64_t kTileRows = 48;           // their number is a multiple of it, and so of every kernel's tile

struct Call {
  Im2col rows;
  pc_gemm_f32_desc d{};
  int64_t n, tile;
  bool is_matrix;
  size_t x_at, part;  // of a part's workspace: first that of the product, then the rows
};

pc_status open(const pc_conv_desc* desc, int64_t group, int64_t groups, const void* x, Call* c) {
  PC_TRY(check_groups(desc, group, groups));
  PC_CHECK(desc->x_type == PC_F32 && desc->y_type == PC_F32, PC_ERROR_TYPE, "x_type and y_type are %d and %d, wanted PC_F32", desc->x_type,
           desc->y_type);
  const int64_t channels = desc->channels / groups;
  PC_TRY(c->rows.open(*desc, x, group * channels, channels));
  const Geometry& g = c->rows.geometry();
  c->is_matrix = g.kh * g.kw == 1 && g.sh == 1 && g.sw == 1 && g.oh == g.height && g.ow == g.width && g.top == 0 && g.left == 0;
  c->n = desc->outputs / groups;
  pc_gemm_f32_desc& d = c->d;
  d.size = sizeof d;
  d.m = c->rows.count();
  d.n = c->n;
  d.k = g.kh * g.kw * channels;
  d.ldx = c->is_matrix ? g.channels : 0;
  d.ldy = desc->outputs;
  d.bias = desc->bias ? desc->bias + group * c->n : nullptr;
  d.activation = desc->activation;
  d.low = desc->low;
  d.high = desc->high;
  c->tile = c->is_matrix ? d.m : std::clamp<int64_t>(kTileBytes / std::max<int64_t>(c->rows.row_bytes(), 1) / kTileRows, 1, 10) * kTileRows;
  size_t needed = 0;
  // Fewer rows may need more, where the product then cuts k in another way.
  for (const int64_t rows : {c->tile, int64_t{32}, int64_t{8}, int64_t{1}}) {
    pc_gemm_f32_desc some = d;
    some.m = std::min(rows, d.m);
    size_t bytes;
    PC_TRY(pc_gemm_f32_workspace_size(&some, 1, &bytes));
    needed = std::max(needed, bytes);
  }
  c->x_at = round_up(needed, kAlignment);
  c->part = c->x_at + (c->is_matrix ? 0 : round_up(static_cast<size_t>(std::min(c->tile, d.m) * c->rows.row_bytes()), kAlignment));
  return PC_OK;
}

}  // namespace
}  // namespace pc

extern "C" {

pc_status pc_conv_f32_workspace_size(const pc_conv_desc* desc, int64_t groups, int32_t nth, size_t* workspace_bytes) {
  using namespace pc;
  PC_CHECK(workspace_bytes, PC_ERROR_NULL, "workspace_bytes is NULL");
  PC_TRY(check_part(0, nth));
  Call c;
  alignas(4) static const char nothing[4] = {};  // stands for x, which is not read
  PC_TRY(open(desc, 0, groups, nothing, &c));
  return workspace_of_parts(c.part, nth, workspace_bytes);
}

pc_status pc_conv_f32_run(const pc_conv_desc* desc, int64_t group, int64_t groups, const void* packed, size_t bytes, const float* x, float* y,
                          void* workspace, size_t workspace_bytes, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  Call c;
  PC_TRY(open(desc, group, groups, x, &c));
  PC_CHECK(bytes > 0, PC_ERROR_BUFFER, "packed has 0 bytes, wanted what pc_gemm_f32_pack or pc_gemm_f16_pack wrote");
  const GemmF32Kernel* kernel;
  PC_TRY(f32_open(packed, bytes, c.n, c.d.k, &kernel));
  const Geometry& g = c.rows.geometry();
  const size_t y_bytes = static_cast<size_t>(g.pixels() * g.outputs) * sizeof(float);
  PC_CHECK(y || !y_bytes, PC_ERROR_NULL, "y is NULL");
  PC_CHECK(is_aligned(y, alignof(float)) && is_aligned(desc->bias, alignof(float)), PC_ERROR_ALIGNMENT, "y or bias is not aligned to float");
  size_t needed = 0;
  PC_TRY(workspace_of_parts(c.part, nth, &needed));
  PC_TRY(check_memory({y, y_bytes}, {{"x", {x, c.rows.x_bytes()}}, {"packed", {packed, bytes}}, {"bias", optional_span(desc->bias, g.outputs)}},
                      workspace, workspace_bytes, needed));
  if (!g.outputs) return PC_OK;  // however many pixels
  char* mine = static_cast<char*>(workspace) + static_cast<size_t>(ith) * c.part;
  const Range range = part_of(c.d.m, 4, ith, nth);
  for (int64_t first = range.begin; first < range.end; first += c.tile) {
    pc_gemm_f32_desc d = c.d;
    d.m = std::min(c.tile, range.end - first);
    float* rows = reinterpret_cast<float*>(mine + c.x_at);
    const float* from = rows;
    if (c.is_matrix)
      from = x + first * g.channels + group * d.k;
    else
      c.rows.write(first, d.m, reinterpret_cast<char*>(rows), static_cast<size_t>(c.rows.row_bytes()));
    PC_TRY(pc_gemm_f32_run(&d, packed, bytes, from, y + first * g.outputs + group * c.n, mine, c.x_at, 0, 1));
  }
  return PC_OK;
}
}
