#include "conv/geometry.h"

namespace pc {
namespace {

constexpr int64_t kLargest = int64_t{1} << 31;  // of a size, stride, dilation or padding: so that no product of two overflows

// Bytes of an array, with sizes of 0 taken for 1: so no product of some of its sizes overflows, either.
bool fits(std::initializer_list<int64_t> sizes) {
  size_t bytes = 4;
  for (const int64_t size : sizes)
    if (!multiply(bytes, static_cast<size_t>(std::max<int64_t>(size, 1)), &bytes) || bytes > PTRDIFF_MAX) return false;
  return true;
}

}  // namespace

pc_status check_groups(const pc_conv_desc* desc, int64_t group, int64_t groups) {
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(desc->size == sizeof *desc, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", desc->size, sizeof *desc);
  PC_CHECK(groups >= 1 && group >= 0 && group < groups, PC_ERROR_VALUE, "group is %lld of %lld, wanted 0 <= group < groups", ll(group), ll(groups));
  PC_CHECK(desc->channels % groups == 0 && desc->outputs % groups == 0, PC_ERROR_SHAPE,
           "channels and outputs are %lld and %lld, wanted multiples of %lld groups", ll(desc->channels), ll(desc->outputs), ll(groups));
  return PC_OK;
}

pc_status geometry_of(const pc_conv_desc* desc, Geometry* g) {
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(desc->size == sizeof *desc, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", desc->size, sizeof *desc);
  const pc_conv_desc& d = *desc;
  PC_CHECK(d.batch >= 0 && d.height >= 0 && d.width >= 0 && d.channels >= 0 && d.outputs >= 0, PC_ERROR_SHAPE,
           "x is [%lld, %lld, %lld, %lld] and outputs are %lld, wanted sizes >= 0", ll(d.batch), ll(d.height), ll(d.width), ll(d.channels),
           ll(d.outputs));
  PC_CHECK(d.kernel_height >= 1 && d.kernel_width >= 1, PC_ERROR_SHAPE, "the kernel is %lld x %lld, wanted at least 1 x 1", ll(d.kernel_height),
           ll(d.kernel_width));
  PC_CHECK(d.stride_height >= 0 && d.stride_width >= 0 && d.dilation_height >= 0 && d.dilation_width >= 0, PC_ERROR_VALUE,
           "strides are (%lld, %lld), dilations (%lld, %lld), wanted >= 1", ll(d.stride_height), ll(d.stride_width), ll(d.dilation_height),
           ll(d.dilation_width));
  PC_CHECK(d.pad_top >= 0 && d.pad_left >= 0 && d.pad_bottom >= 0 && d.pad_right >= 0, PC_ERROR_VALUE,
           "the padding is (%lld, %lld, %lld, %lld), wanted >= 0", ll(d.pad_top), ll(d.pad_left), ll(d.pad_bottom), ll(d.pad_right));
  const auto one = [](int64_t value) { return value == 0 ? int64_t{1} : value; };
  *g = {d.batch,
        d.height,
        d.width,
        d.channels,
        d.outputs,
        d.kernel_height,
        d.kernel_width,
        one(d.stride_height),
        one(d.stride_width),
        one(d.dilation_height),
        one(d.dilation_width),
        d.pad_top,
        d.pad_left,
        0,
        0};
  for (const int64_t size : {d.batch, d.height, d.width, d.channels, d.outputs, g->kh, g->kw, g->sh, g->sw, g->dh, g->dw, d.pad_top, d.pad_left,
                             d.pad_bottom, d.pad_right})
    PC_CHECK(size <= kLargest, PC_ERROR_OVERFLOW, "a size, stride, dilation or padding is %lld, wanted at most 2^31", ll(size));
  const int64_t high = d.height + d.pad_top + d.pad_bottom, wide = d.width + d.pad_left + d.pad_right;
  const int64_t kernel_high = (g->kh - 1) * g->dh + 1, kernel_wide = (g->kw - 1) * g->dw + 1;
  PC_CHECK(high >= kernel_high && wide >= kernel_wide, PC_ERROR_SHAPE,
           "the image with its padding is %lld x %lld, smaller than the kernel with its dilation, %lld x %lld", ll(high), ll(wide), ll(kernel_high),
           ll(kernel_wide));
  g->oh = (high - kernel_high) / g->sh + 1;
  g->ow = (wide - kernel_wide) / g->sw + 1;
  PC_CHECK(fits({d.batch, d.height, d.width, d.channels}) && fits({d.batch, g->oh, g->ow, d.outputs}), PC_ERROR_OVERFLOW,
           "x [%lld, %lld, %lld, %lld] or y [%lld, %lld, %lld, %lld] is larger than memory", ll(d.batch), ll(d.height), ll(d.width), ll(d.channels),
           ll(d.batch), ll(g->oh), ll(g->ow), ll(d.outputs));
  return PC_OK;
}

}  // namespace pc

extern "C" {

pc_status pc_conv_output_size(const pc_conv_desc* desc, int64_t* height, int64_t* width) {
  PC_CHECK(height && width, PC_ERROR_NULL, "height or width is NULL");
  pc::Geometry g{};
  PC_TRY(pc::geometry_of(desc, &g));
  *height = g.oh;
  *width = g.ow;
  return PC_OK;
}
}
