// Depthwise and pointwise convolution, fused: some rows of the depthwise result at a time, which are multiplied while they are in L2. The product is
// that of whichever family packed the pointwise weight.
#include <cstring>

#include "conv/bands.h"
#include "conv/geometry.h"
#include "core/partition.h"
#include "gemm/f32_packed.h"
#include "gemm/quantized.h"

namespace pc {
namespace {

// The pointwise product, by what its packed weight begins with.
struct Pointwise {
  const void* packed;
  size_t bytes;
  enum Kind { kF32, kS8, kS4, kSparse } kind;
  pc_gemm_f32_desc f32{};
  pc_gemm_s8_desc s8{};
  pc_gemm_s4_desc s4{};
  pc_spmm_desc sparse{};

  pc_status open(const pc_separable_desc& desc) {
    PC_CHECK(packed, PC_ERROR_NULL, "pointwise is NULL");
    PC_CHECK(bytes >= static_cast<size_t>(kAlignment), PC_ERROR_BUFFER, "pointwise has %zu bytes, a header alone has %d", bytes, PC_ALIGNMENT);
    const auto begins = [this](const char* magic) { return std::memcmp(packed, magic, 8) == 0; };
    const pc_conv_desc& d = desc.depthwise;
    bool quantizes = begins("PCgemms8") || begins("PCgemms4");
    int64_t n = desc.outputs, k = d.outputs;
    if (begins("PCgemmf4") || begins("PCgemmf2")) {
      kind = kF32;
      const GemmF32Kernel* kernel;
      PC_TRY(f32_open(packed, bytes, n, k, &kernel));
      fill(&f32, desc);
    } else if (begins("PCgemms8")) {
      kind = kS8;
      PC_TRY(pc_gemm_s8_packed_info(packed, bytes, &n, &k, nullptr));
      fill_quantized(&s8, desc);
    } else if (begins("PCgemms4")) {
      kind = kS4;
      PC_TRY(pc_gemm_s4_packed_info(packed, bytes, &n, &k, nullptr, nullptr));
      fill_quantized(&s4, desc);
    } else if (begins("PCspmm01")) {
      kind = kSparse;
      pc_type type;
      PC_TRY(pc_spmm_packed_info(packed, bytes, &n, &k, &type, nullptr));
      quantizes = type == PC_S8;
      fill_quantized(&sparse, desc);
    } else {
      return fail(PC_ERROR_FORMAT, "pointwise does not begin as a packed weight of gemm_f32, gemm_s8, gemm_s4 or spmm does");
    }
    PC_CHECK(n == desc.outputs && k == d.outputs, PC_ERROR_SHAPE, "pointwise is [%lld, %lld], wanted [%lld, %lld]", ll(n), ll(k), ll(desc.outputs),
             ll(d.outputs));
    PC_CHECK(kind != kF32 || (d.y_type == PC_F32 && desc.y_type == PC_F32), PC_ERROR_TYPE,
             "y_type and depthwise.y_type are %d and %d, wanted PC_F32 with a float32 pointwise weight", desc.y_type, d.y_type);
    PC_CHECK(!quantizes || d.y_type != PC_F32 || desc.mid_scale != 0, PC_ERROR_VALUE,
             "mid_scale is 0, wanted the scale by which the float32 values between are quantized");
    return PC_OK;
  }

  template <class Desc> static void fill(Desc* to, const pc_separable_desc& desc) {
    to->size = sizeof *to;
    to->n = desc.outputs;
    to->k = desc.depthwise.outputs;
    to->bias = desc.bias;
    to->activation = desc.activation;
    to->low = desc.low;
    to->high = desc.high;
  }
  template <class Desc> static void fill_quantized(Desc* to, const pc_separable_desc& desc) {
    fill(to, desc);
    const pc_conv_desc& d = desc.depthwise;
    const bool is_float = d.y_type == PC_F32;
    to->x_type = d.y_type;
    to->x_scale = is_float ? desc.mid_scale : d.y_scale;
    to->x_zero_point = is_float ? desc.mid_zero_point : d.y_zero_point;
    to->y_type = desc.y_type;
    to->y_scale = desc.y_scale;
    to->y_zero_point = desc.y_zero_point;
  }

  pc_status workspace_size(int64_t m, size_t* size) {
    switch (kind) {
      case kF32:
        f32.m = m;
        return pc_gemm_f32_workspace_size(&f32, 1, size);
      case kS8:
        s8.m = m;
        return pc_gemm_s8_workspace_size(&s8, packed, bytes, 1, size);
      case kS4:
        s4.m = m;
        return pc_gemm_s4_workspace_size(&s4, packed, bytes, 1, size);
      default:
        sparse.m = m;
        return pc_spmm_workspace_size(&sparse, packed, bytes, 1, size);
    }
  }

  pc_status run(int64_t m, const void* x, void* y, void* workspace, size_t size) {
    switch (kind) {
      case kF32:
        f32.m = m;
        return pc_gemm_f32_run(&f32, packed, bytes, static_cast<const float*>(x), static_cast<float*>(y), workspace, size, 0, 1);
      case kS8:
        s8.m = m;
        return pc_gemm_s8_run(&s8, packed, bytes, x, y, workspace, size, 0, 1);
      case kS4:
        s4.m = m;
        return pc_gemm_s4_run(&s4, packed, bytes, x, y, workspace, size, 0, 1);
      default:
        sparse.m = m;
        return pc_spmm_run(&sparse, packed, bytes, x, y, workspace, size, 0, 1);
    }
  }
};

struct Call {
  pc_conv_desc d;
  Geometry g{};
  Pointwise pointwise;
  Bands bands{};
  size_t depthwise_bytes, product_bytes;  // of workspace
  size_t mid_at, part;                    // both begin a part's workspace, one after the other; then the rows that wait
};

pc_status open(const pc_separable_desc* desc, const void* depthwise, size_t depthwise_bytes, const void* pointwise, size_t pointwise_bytes,
               int32_t nth, Call* c) {
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(desc->size == sizeof *desc, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", desc->size, sizeof *desc);
  PC_CHECK(desc->outputs >= 0, PC_ERROR_SHAPE, "outputs are %lld, wanted at least 0", ll(desc->outputs));
  PC_TRY(geometry_of(&desc->depthwise, &c->g));
  const Geometry& g = c->g;
  c->d = desc->depthwise;
  c->d.stride_height = g.sh;  // with the defaults filled in
  c->d.dilation_height = g.dh;
  c->pointwise.packed = pointwise;
  c->pointwise.bytes = pointwise_bytes;
  PC_TRY(c->pointwise.open(*desc));
  size_t y_bytes;
  PC_CHECK(multiply(static_cast<size_t>(g.pixels()), 4, &y_bytes) && multiply(y_bytes, static_cast<size_t>(desc->outputs), &y_bytes) &&
               y_bytes <= PTRDIFF_MAX,
           PC_ERROR_OVERFLOW, "y [%lld, %lld, %lld, %lld] is larger than memory", ll(g.batch), ll(g.oh), ll(g.ow), ll(desc->outputs));
  const int64_t row = g.ow * g.outputs * static_cast<int64_t>(size_of(c->d.y_type));
  c->bands = bands_of(g.batch, g.oh, row, nth);
  for (const int64_t count : {std::min(c->bands.rows, g.oh), g.oh - (c->bands.count - 1) * c->bands.rows}) {
    size_t bytes;
    const pc_conv_desc band = largest_band(c->d, count);
    PC_TRY(pc_depthwise_workspace_size(&band, depthwise, depthwise_bytes, 1, &bytes));
    c->depthwise_bytes = std::max(c->depthwise_bytes, bytes);
    PC_TRY(c->pointwise.workspace_size(count * g.ow, &bytes));
    c->product_bytes = std::max(c->product_bytes, bytes);
  }
  c->mid_at = round_up(std::max(c->depthwise_bytes, c->product_bytes), kAlignment);
  c->part = c->mid_at + round_up(static_cast<size_t>(std::min(c->bands.rows, g.oh) * row), kAlignment);
  return PC_OK;
}

}  // namespace
}  // namespace pc

extern "C" {

pc_status pc_separable_workspace_size(const pc_separable_desc* desc, const void* depthwise, size_t depthwise_bytes, const void* pointwise,
                                      size_t pointwise_bytes, int32_t nth, size_t* workspace_bytes) {
  using namespace pc;
  PC_CHECK(workspace_bytes, PC_ERROR_NULL, "workspace_bytes is NULL");
  PC_TRY(check_part(0, nth));
  Call c{};
  PC_TRY(open(desc, depthwise, depthwise_bytes, pointwise, pointwise_bytes, nth, &c));
  return workspace_of_parts(c.part, nth, workspace_bytes);
}

pc_status pc_separable_run(const pc_separable_desc* desc, const void* depthwise, size_t depthwise_bytes, const void* pointwise,
                           size_t pointwise_bytes, const void* x, void* y, void* workspace, size_t workspace_bytes, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  Call c{};
  PC_TRY(open(desc, depthwise, depthwise_bytes, pointwise, pointwise_bytes, nth, &c));
  const Geometry& g = c.g;
  const int64_t x_size = static_cast<int64_t>(size_of(c.d.x_type)), y_size = static_cast<int64_t>(size_of(desc->y_type));
  const size_t x_bytes = static_cast<size_t>(g.batch * g.height * g.width * g.channels * x_size);
  const size_t y_bytes = static_cast<size_t>(g.pixels() * desc->outputs * y_size);
  PC_CHECK((x || !x_bytes) && (y || !y_bytes), PC_ERROR_NULL, "%s is NULL", x || !x_bytes ? "y" : "x");
  PC_CHECK(is_aligned(x, static_cast<size_t>(x_size)) && is_aligned(y, static_cast<size_t>(y_size)) && is_aligned(c.d.bias, alignof(float)) &&
               is_aligned(desc->bias, alignof(float)),
           PC_ERROR_ALIGNMENT, "x, y or a bias is not aligned to its element type");
  size_t needed = 0;
  PC_TRY(workspace_of_parts(c.part, nth, &needed));
  PC_TRY(check_memory({y, y_bytes},
                      {{"x", {x, x_bytes}},
                       {"depthwise", {depthwise, depthwise_bytes}},
                       {"pointwise", {pointwise, pointwise_bytes}},
                       {"depthwise.bias", optional_span(c.d.bias, g.outputs)},
                       {"bias", optional_span(desc->bias, desc->outputs)}},
                      workspace, workspace_bytes, needed));
  if (!y_bytes) return PC_OK;  // however many pixels
  char* mine = static_cast<char*>(workspace) + static_cast<size_t>(ith) * c.part;
  const Range range = part_of(g.batch * c.bands.count, 1, ith, nth);
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t image = i / c.bands.count, begin = i % c.bands.count * c.bands.rows, end = std::min(g.oh, begin + c.bands.rows);
    int64_t offset;
    const pc_conv_desc band = band_of(c.d, image, begin, end, &offset);
    PC_TRY(pc_depthwise_run(&band, depthwise, depthwise_bytes, static_cast<const char*>(x) + offset * x_size, mine + c.mid_at, mine, c.mid_at, 0, 1));
    char* to = static_cast<char*>(y) + (image * g.oh + begin) * g.ow * desc->outputs * y_size;
    PC_TRY(c.pointwise.run((end - begin) * g.ow, mine + c.mid_at, to, mine, c.mid_at));
  }
  return PC_OK;
}
}
