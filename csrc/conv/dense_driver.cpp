// The dense int8 convolution: the int8 GEMM over rows of the im2col matrix, which are gathered at once into the form that its kernel reads.
#include "conv/im2col.h"
#include "core/partition.h"
#include "gemm/s8_rows.h"

namespace pc {
namespace {

struct Call {
  Im2col rows;
  pc_gemm_s8_desc d{};
  int64_t group = 0;
};

// The product of one group: rows are output pixels, and y is columns [group * n, group * n + n) of the result.
pc_status open(const pc_conv_desc* desc, int64_t group, int64_t groups, const int32_t* w_zero_points, const void* x, Call* c) {
  PC_TRY(check_groups(desc, group, groups));
  PC_CHECK(desc->x_type == PC_U8 || desc->x_type == PC_S8, PC_ERROR_TYPE, "x_type is %d, wanted PC_U8 or PC_S8", desc->x_type);
  const int64_t channels = desc->channels / groups, n = desc->outputs / groups;
  PC_TRY(c->rows.open(*desc, x, group * channels, channels));
  pc_gemm_s8_desc& d = c->d;
  d.size = sizeof d;
  d.m = c->rows.count();
  d.n = n;
  d.k = c->rows.row_bytes();
  d.ldy = desc->outputs;
  d.x_type = desc->x_type;
  d.y_type = desc->y_type;
  d.x_scale = desc->x_scale;
  d.x_zero_point = desc->x_zero_point;
  d.w_zero_points = w_zero_points ? w_zero_points + group * n : nullptr;
  d.y_scale = desc->y_scale;
  d.y_zero_point = desc->y_zero_point;
  d.bias = desc->bias ? desc->bias + group * n : nullptr;
  d.activation = desc->activation;
  d.low = desc->low;
  d.high = desc->high;
  c->group = group;
  return PC_OK;
}

}  // namespace
}  // namespace pc

extern "C" {

pc_status pc_conv_s8_workspace_size(const pc_conv_desc* desc, int64_t groups, const void* packed, size_t bytes, int32_t nth,
                                    size_t* workspace_bytes) {
  using namespace pc;
  PC_CHECK(workspace_bytes, PC_ERROR_NULL, "workspace_bytes is NULL");
  PC_TRY(check_part(0, nth));
  Call c;
  alignas(4) static const char nothing[4] = {};  // stands for x, which is not read
  PC_TRY(open(desc, 0, groups, nullptr, nothing, &c));
  return gemm_s8_rows_workspace_size(c.d, packed, bytes, nth, workspace_bytes);
}

pc_status pc_conv_s8_run(const pc_conv_desc* desc, int64_t group, int64_t groups, const void* packed, size_t bytes, const int32_t* w_zero_points,
                         const void* x, void* y, void* workspace, size_t workspace_bytes, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  Call c;
  PC_TRY(open(desc, group, groups, w_zero_points, x, &c));
  const Geometry& g = c.rows.geometry();
  const int64_t element = desc->y_type == PC_F32 || desc->y_type == PC_S32 ? 4 : 1;
  const S8Rows rows{&c.rows,
                    [](const void* context, int64_t first, int64_t count, char* to, size_t stride) {
                      static_cast<const Im2col*>(context)->write(first, count, to, stride);
                    },
                    {x, c.rows.x_bytes()},
                    {y, static_cast<size_t>(g.pixels() * g.outputs * element)}};
  char* columns = y ? static_cast<char*>(y) + group * c.d.n * element : nullptr;
  return gemm_s8_rows_run(c.d, packed, bytes, rows, columns, workspace, workspace_bytes, ith, nth);
}
}
