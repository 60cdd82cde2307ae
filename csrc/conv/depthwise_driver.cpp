// The driver of depthwise convolution: checks arguments, cuts the result into bands of rows and blocks of channels for the parts, and hands tiles
// to the kernel.
//
// A band is as many rows of outputs as a tile of the kernel, or two of them. int8 kernels of a size take a whole row of tiles as a strip and see to
// the borders. float32 kernels take strips of the tiles that lie within the image, by the addresses of their rows; where a tile reaches beyond the
// image or the row, they get the address of each pixel instead. Pixels that don't exist are those of one line of zero points: nothing is copied for
// the padding. int8 kernels load whole blocks; the few pixels at the very end of x where that would leave the operand are read from copies. Only
// where x has to become something else first (float32 to uint8, or each channel several times) do its rows go through a ring in the workspace.
#include <cmath>
#include <cstring>
#include <vector>

#include "conv/depthwise_packed.h"
#include "conv/geometry.h"
#include "core/partition.h"
#include "gemm/last_step.h"
#include "gemm/quantized.h"
#include "quant/quant.h"

namespace pc {
namespace {

constexpr int64_t kStripBytes = 24 * 1024;  // of x under a strip with all its channels: it stays in L1 from block to block
constexpr int kLineBytes = 64;              // of a cache
constexpr int64_t kAliasBytes = 512;        // pixels a multiple of it apart share 8 of the 64 sets of L1: a strip does not stay there
constexpr int64_t kRawColumns = 16;         // sums that wait for their last step
constexpr int kMaxBandRows = 2 * kMaxTileRows;
constexpr int64_t kGeneralColumns = 8;  // outputs at a time whose pixels are given one by one

// A descriptor with what follows from it.
struct Call {
  pc_conv_desc d;
  Geometry g;
  DepthwisePacked w;
  Blocks cut;
  const DepthwiseS8Shape* s8;  // the kernel for this size and stride, or nullptr: by taps
  const DepthwiseF32Shape* f32;
  const char* x;
  char* y;
  bool is_s8, through_ring;
  float inverse_x_scale;
  float low, high;  // of float32 results
  Bounds q;         // of quantized results, after the clamp; of others nothing

  int multiplier() const { return static_cast<int>(g.channels ? g.outputs / g.channels : 1); }
  int rows() const { return s8 ? s8->rows * (cut.dual ? 2 : 1) : f32 ? f32->rows : 1; }  // of a band; of a dual block that is one strip
  bool shaped() const { return s8 || f32; }
  size_t element() const { return is_s8 ? 1 : 4; }                                     // of x as the kernel reads it
  int64_t pixel_bytes() const { return g.outputs * static_cast<int64_t>(element()); }  // likewise
  int64_t bands() const { return divide_up(g.oh, static_cast<int64_t>(rows())); }
  // float32: both blocks of a cache line.
  bool together() const { return cut.block * 4 < kLineBytes && pixel_bytes() % kAliasBytes == 0; }
};

template <class Shape> const Shape* find_shape(const Shape (&shapes)[kDepthwiseShapes], const Geometry& g) {
  if (g.kh != g.kw || g.sh != g.sw || g.dh != 1 || g.dw != 1) return nullptr;
  for (const Shape& shape : shapes)
    if (shape.k == g.kh && shape.stride == g.sh) return &shape;
  return nullptr;
}

pc_status check_types(const pc_conv_desc& d, bool s8) {
  if (!s8) {
    PC_CHECK(d.x_type == PC_F32 && d.y_type == PC_F32, PC_ERROR_TYPE, "x_type and y_type are %d and %d, wanted PC_F32 with a float32 weight",
             d.x_type, d.y_type);
    return PC_OK;
  }
  PC_TRY(check_x_type(d));
  PC_CHECK(d.y_type >= PC_F32 && d.y_type <= PC_S32, PC_ERROR_TYPE, "y_type is %d, wanted PC_F32, PC_U8, PC_S8 or PC_S32", d.y_type);
  if (d.y_type == PC_S32) {
    PC_CHECK(d.x_type != PC_F32, PC_ERROR_TYPE, "y_type is PC_S32, wanted x_type PC_U8 or PC_S8, not PC_F32");
    PC_CHECK(!d.bias && d.activation == PC_ACTIVATION_NONE, PC_ERROR_VALUE, "y_type is PC_S32, which takes neither bias nor activation");
  } else {
    PC_CHECK(positive(d.x_scale), PC_ERROR_VALUE, "x_scale is %g, wanted positive and finite", static_cast<double>(d.x_scale));
  }
  if (d.y_type == PC_U8 || d.y_type == PC_S8) {
    PC_CHECK(positive(d.y_scale), PC_ERROR_VALUE, "y_scale is %g, wanted positive and finite", static_cast<double>(d.y_scale));
    const Bounds y = bounds_of(d.y_type);
    PC_CHECK(d.y_zero_point >= y.low && d.y_zero_point <= y.high, PC_ERROR_VALUE, "y_zero_point is %d, wanted %d to %d", d.y_zero_point, y.low,
             y.high);
  }
  return PC_OK;
}

pc_status check_desc(const pc_conv_desc* desc, const void* packed, size_t bytes, Call* call) {
  PC_TRY(geometry_of(desc, &call->g));
  PC_TRY(depthwise_open(packed, bytes, &call->w));
  call->d = *desc;
  const pc_conv_desc& d = call->d;
  const Geometry& g = call->g;
  const DepthwiseHeader& h = *call->w.header;
  PC_CHECK(g.outputs == h.outputs && g.kh == h.kh && g.kw == h.kw, PC_ERROR_SHAPE,
           "outputs and kernel are %lld, %lld x %lld, wanted the weight's, %lld, %lld x %lld", ll(g.outputs), ll(g.kh), ll(g.kw), ll(h.outputs),
           ll(h.kh), ll(h.kw));
  PC_CHECK(g.channels == 0 ? g.outputs == 0 : g.outputs % g.channels == 0, PC_ERROR_SHAPE,
           "outputs are %lld, wanted a multiple of the channels of x, %lld", ll(g.outputs), ll(g.channels));
  call->is_s8 = h.type == PC_S8;
  PC_TRY(check_types(d, call->is_s8));
  const Kernels& kernels = *call->w.kernels;
  call->cut = blocks_of(g.outputs, h.block, call->is_s8);
  call->through_ring = call->multiplier() > 1 || (call->is_s8 && d.x_type == PC_F32);
  if (call->multiplier() <= 1) {
    if (call->is_s8)
      call->s8 = find_shape(kernels.depthwise_s8->shapes, g);
    else
      call->f32 = find_shape(kernels.depthwise_f32->shapes, g);
  }
  if (call->is_s8 && d.x_type == PC_F32) {
    call->inverse_x_scale = 1.0f / d.x_scale;
    PC_CHECK(std::isfinite(call->inverse_x_scale), PC_ERROR_VALUE, "x_scale is %g, too small for its inverse to be finite",
             static_cast<double>(d.x_scale));
  }
  PC_TRY(clamp_of(d, &call->low, &call->high));
  call->q = bounds_of(d.y_type);
  if (d.activation == PC_ACTIVATION_CLAMP && (d.y_type == PC_U8 || d.y_type == PC_S8))
    call->q = {quantized_bound(d.low, d.y_scale, d.y_zero_point, call->q), quantized_bound(d.high, d.y_scale, d.y_zero_point, call->q)};
  return PC_OK;
}

// A part's own workspace.
struct Workspace {
  int64_t span;      // rows in the ring
  size_t row_bytes;  // of one of them
  int64_t pointers;  // addresses of pixels at a time
  size_t pad, pad_row, copy_bytes, copy_rows, buffer, copies, pixel, copied, ring, tags, mult, bias_q, start, block_start, block_mult, raw, tile,
      bytes;
};

Workspace workspace_of(const Call& c) {
  const Geometry& g = c.g;
  Workspace w{};
  size_t end = 0;
  const auto section = [&end](size_t bytes) {
    const size_t begin = end;
    end = round_up(begin + bytes, kAlignment);
    return begin;
  };
  const size_t pixel = static_cast<size_t>(c.pixel_bytes()), padded = static_cast<size_t>(c.cut.count) * static_cast<size_t>(c.cut.block) * 4;
  const int64_t taps = round_up(g.kh * g.kw, int64_t{4});
  w.pointers = std::max<int64_t>(kMaxTileRows * kMaxTileColumns, std::min(kGeneralColumns, g.ow) * taps);
  w.pad = section(pixel + kMaxBlock * 4);
  if (c.s8) {
    // Rows that don't exist, and the ends of those whose last blocks can't be loaded where they lie.
    w.pad_row = section(static_cast<size_t>(g.width) * pixel + kMaxBlock);
    w.copy_bytes = round_up(2 * pixel + 2 * kMaxBlock, kAlignment);
    w.copy_rows = section(kMaxBandRows * w.copy_bytes);
    w.buffer = section(kMaxColumns * kMaxColumnBytes);
  }
  w.copies = section(static_cast<size_t>(w.pointers) * kMaxBlock);
  w.pixel = section(static_cast<size_t>(w.pointers) * sizeof(char*));
  w.copied = section(static_cast<size_t>(w.pointers) * sizeof(char*));
  if (c.through_ring) {
    w.span = std::min(g.height, (c.rows() - 1) * g.sh + (g.kh - 1) * g.dh + 1);
    // What is quantized before its channels are repeated waits in a row of its own.
    w.row_bytes = round_up(static_cast<size_t>(g.width) * pixel + kMaxBlock * 4, kAlignment);
    w.ring = section(static_cast<size_t>(w.span + (c.multiplier() > 1)) * w.row_bytes);
    w.tags = section(static_cast<size_t>(w.span) * sizeof(int64_t));
  }
  if (c.is_s8) {
    w.mult = section(padded);
    w.bias_q = section(padded);
    w.start = section(padded);
    w.block_start = section(padded);
    w.block_mult = section(padded);
    w.raw = section(2 * 2 * kRawColumns * kMaxBlock * 4);
    w.tile = section(kRawColumns * kMaxBlock * 4);
  }
  w.bytes = end;
  return w;
}

pc_status check_operands(const Call& c, size_t bytes, const void* workspace, size_t workspace_bytes, size_t needed) {
  const Geometry& g = c.g;
  const size_t x_bytes = static_cast<size_t>(g.batch * g.height * g.width * g.channels) * size_of(c.d.x_type);
  const size_t y_bytes = static_cast<size_t>(g.pixels() * g.outputs) * size_of(c.d.y_type);
  PC_CHECK((c.x || !x_bytes) && (c.y || !y_bytes), PC_ERROR_NULL, "%s is NULL", c.x || !x_bytes ? "y" : "x");
  PC_CHECK(is_aligned(c.x, size_of(c.d.x_type)) && is_aligned(c.y, size_of(c.d.y_type)) && is_aligned(c.d.bias, alignof(float)), PC_ERROR_ALIGNMENT,
           "x, y or bias is not aligned to its element type");
  return check_memory({c.y, y_bytes}, {{"x", {c.x, x_bytes}}, {"packed", {c.w.header, bytes}}, {"bias", optional_span(c.d.bias, g.outputs)}},
                      workspace, workspace_bytes, needed);
}

enum class Kind { kStrip, kEdge, kTaps };

// Outputs [row, row + rows) x [column, column + columns) of an image, as one call of a kernel sees them.
struct Place {
  Kind kind;
  int64_t image, row, column;
  int rows;
  int64_t columns, block, blocks;
};

// One part of the work, in a workspace of its own.
class Part {
 public:
  Part(const Call& call, const Workspace& layout, char* workspace)
      : c_(call),
        g_(call.g),
        layout_(layout),
        memory_(workspace),
        pixel_(reinterpret_cast<const char**>(workspace + layout.pixel)),
        copied_(reinterpret_cast<const char**>(workspace + layout.copied)),
        tags_(reinterpret_cast<int64_t*>(workspace + layout.tags)) {
    to_q8_ = c_.d.y_type == PC_U8 || c_.d.y_type == PC_S8;
    std::fill_n(tags_, c_.through_ring ? layout.span : 0, int64_t{-1});
  }

  // Bands of all images, and blocks of channels.
  pc_status run(const Block& block) {
    if (block.m.begin == block.m.end || block.n.begin == block.n.end) return PC_OK;
    const int padding = c_.is_s8 ? c_.d.x_zero_point & 0xff : 0;
    std::memset(memory_ + layout_.pad, padding, static_cast<size_t>(c_.pixel_bytes()) + kMaxBlock * 4);
    if (c_.s8) std::memset(memory_ + layout_.pad_row, padding, static_cast<size_t>(g_.width * c_.pixel_bytes()) + kMaxBlock);
    if (c_.is_s8) PC_TRY(prepare_last_step(block.n));
    for (int64_t i = block.m.begin; i < block.m.end; ++i) PC_TRY(run_band(i / c_.bands(), i % c_.bands() * c_.rows(), block.n));
    return PC_OK;
  }

 private:
  // ---- rows of x

  const char* pad() const { return memory_ + layout_.pad; }
  char* slot(int64_t i) const { return memory_ + layout_.ring + static_cast<size_t>(i) * layout_.row_bytes; }

  // Row iy of an image as the kernel reads it.
  pc_status row(int64_t image, int64_t iy, const char** at) {
    const int64_t index = image * g_.height + iy, values = g_.width * g_.channels;
    const char* x = c_.x + index * values * static_cast<int64_t>(size_of(c_.d.x_type));
    if (!c_.through_ring) {
      *at = x;
      return PC_OK;
    }
    char* to = slot(iy % layout_.span);
    *at = to;
    if (tags_[iy % layout_.span] == index) return PC_OK;
    tags_[iy % layout_.span] = -1;
    if (c_.is_s8 && c_.d.x_type == PC_F32) {
      char* quantized = c_.multiplier() > 1 ? slot(layout_.span) : to;
      PC_CHECK(c_.w.kernels->quant->quantize_row(reinterpret_cast<const float*>(x), values, c_.inverse_x_scale, c_.d.x_zero_point, false,
                                                 reinterpret_cast<uint8_t*>(quantized)),
               PC_ERROR_NONFINITE, "x holds NaN in row %lld of image %lld and can't be quantized", ll(iy), ll(image));
      x = quantized;
    }
    if (c_.multiplier() > 1) {
      if (c_.is_s8)
        repeat(reinterpret_cast<const uint8_t*>(x), values, reinterpret_cast<uint8_t*>(to));
      else
        repeat(reinterpret_cast<const float*>(x), values, reinterpret_cast<float*>(to));
    }
    tags_[iy % layout_.span] = index;
    return PC_OK;
  }

  template <class T> void repeat(const T* x, int64_t values, T* to) const {
    const int times = c_.multiplier();
    for (int64_t i = 0; i < values; ++i)
      for (int j = 0; j < times; ++j) *to++ = x[i];
  }

  // Where loads of block `block` have to end, and how far beyond its first channel they reach.
  const char* x_end() const { return c_.x + g_.batch * g_.height * g_.width * c_.pixel_bytes(); }
  bool dual(int64_t block) const { return c_.cut.dual && block == c_.cut.full; }
  int64_t reach(int64_t block) const {
    if (!c_.is_s8) return c_.cut.channels(block) * 4;  // kernels load no lane beyond
    return dual(block) && c_.shaped() ? c_.cut.block / 2 : c_.cut.block;
  }
  int64_t offset(int64_t block) const { return block * c_.cut.block * static_cast<int64_t>(c_.element()); }

  // ---- one band

  pc_status run_band(int64_t image, int64_t oy, const Range& blocks) {
    if (!c_.shaped()) return run_general(image, oy, blocks);
    const int k = static_cast<int>(g_.kh), s = static_cast<int>(g_.sh), rows = static_cast<int>(std::min<int64_t>(c_.rows(), g_.oh - oy));
    const char* in[kMaxBandRows];  // nullptr beyond the image
    bool inside = rows == c_.rows();
    for (int r = 0; r < (c_.rows() - 1) * s + k; ++r) {
      const int64_t iy = oy * s - g_.top + r;
      in[r] = nullptr;
      if (iy >= 0 && iy < g_.height)
        PC_TRY(row(image, iy, &in[r]));
      else
        inside = false;
    }
    const int64_t whole = std::min(blocks.end, c_.cut.full);
    if (c_.f32) {
      if (blocks.begin < whole) PC_TRY(run_tiles(image, oy, rows, in, inside, {blocks.begin, whole}));
      return blocks.end > c_.cut.full ? run_tiles(image, oy, rows, in, inside, {c_.cut.full, blocks.end}) : static_cast<pc_status>(PC_OK);
    }
    for (int r = 0; r < rows && blocks.begin < whole; r += c_.s8->rows)
      PC_TRY(run_strip_s8(image, oy + r, std::min(c_.s8->rows, rows - r), in + r * s, {blocks.begin, whole}));
    const int strip = dual(c_.cut.full) ? rows : c_.s8->rows;
    for (int r = 0; r < rows && blocks.end > c_.cut.full; r += strip)
      PC_TRY(run_strip_s8(image, oy + r, std::min(strip, rows - r), in + r * s, {c_.cut.full, blocks.end}));
    return PC_OK;
  }

  // A row of tiles (dual: two) of blocks of one kind.
  pc_status run_strip_s8(int64_t image, int64_t oy, int rows, const char* const* in, const Range& blocks) {
    const int k = static_cast<int>(g_.kh), s = static_cast<int>(g_.sh), in_rows = (c_.s8->rows - 1) * s + k,
              all = dual(blocks.begin) ? 2 * in_rows : in_rows;
    const int64_t pixel = c_.pixel_bytes(), last_block = offset(blocks.end - 1) + reach(blocks.end - 1);
    DepthwiseS8Tile tile{};
    tile.x_zero_point = c_.d.x_zero_point + (c_.d.x_type == PC_S8 ? 128 : 0);
    tile.width = tile.direct = g_.width;
    tile.pixel_bytes = pixel;
    tile.buffer = memory_ + layout_.buffer;
    for (int r = 0; r < all; ++r) {
      const char* at = in[r < in_rows ? r : r - in_rows + c_.s8->rows * s];
      tile.row[r] = at ? at : memory_ + layout_.pad_row;
      if (!at || c_.through_ring) continue;
      const int64_t room = x_end() - at - last_block;
      tile.direct = room < 0 ? 0 : std::min(tile.direct, room / pixel + 1);
    }
    for (int r = 0; r < all && tile.direct < g_.width; ++r) {
      char* copy = memory_ + layout_.copy_rows + static_cast<size_t>(r) * layout_.copy_bytes;
      std::memcpy(copy, tile.row[r] + tile.direct * pixel, static_cast<size_t>((g_.width - tile.direct) * pixel));
      tile.copy[r] = copy;
    }
    const int64_t step = blocks_at_once(blocks), at_once = raw() ? kRawColumns : g_.ow;
    for (int64_t ox = 0; ox < g_.ow; ox += at_once)
      for (int64_t b = blocks.begin; b < blocks.end; b += step) {
        const int64_t columns = std::min(at_once, g_.ow - ox);
        tile.count = columns;
        tile.column = ox * s - g_.left;
        tile.offset = offset(b);
        PC_TRY(call_s8(tile, {Kind::kStrip, image, oy, ox, rows, columns, b, step}));
      }
    return PC_OK;
  }

  // float32: tiles along a row.
  pc_status run_tiles(int64_t image, int64_t oy, int rows, const char* const* in, bool inside, const Range& blocks) {
    const int s = static_cast<int>(g_.sh), tile = c_.f32->columns;
    const int64_t all = divide_up(g_.ow, static_cast<int64_t>(tile));
    int64_t begin = all, end = all;  // of the tiles that go as strips
    if (inside) {
      begin = std::min(all, divide_up(first_inside(g_.left, s), static_cast<int64_t>(tile)));
      end = std::max(begin, std::min(g_.ow, end_inside(g_.width, g_.left, s, g_.kw - 1)) / tile);
    }
    for (int64_t t = 0; t < all; ++t) {
      if (t == begin && end > begin) {
        PC_TRY(run_strips(image, oy, rows, in, begin, end, tile, blocks));
        t = end;
        if (t == all) break;
      }
      PC_TRY(run_edge(image, oy, rows, in, t * tile, tile, blocks));
    }
    return PC_OK;
  }

  pc_status run_strips(int64_t image, int64_t oy, int rows, const char* const* in, int64_t begin, int64_t end, int width, const Range& blocks) {
    const int s = static_cast<int>(g_.sh), in_rows = (rows - 1) * s + static_cast<int>(g_.kh);
    const int64_t at_once = std::max<int64_t>(kStripBytes / (in_rows * s * c_.pixel_bytes()) / width, c_.together() ? 1 : 4);
    for (int64_t t = begin; t < end; t += at_once) {
      DepthwiseF32Tile tile{};
      tile.count = std::min(at_once, end - t);
      tile.pixel_bytes = c_.pixel_bytes();
      for (int r = 0; r < in_rows; ++r) tile.row[r] = in[r] + (t * width * s - g_.left) * c_.pixel_bytes() + offset(blocks.begin);
      PC_TRY(call_f32(tile, {Kind::kStrip, image, oy, t * width, rows, tile.count * width, blocks.begin, blocks.end - blocks.begin}));
    }
    return PC_OK;
  }

  pc_status run_edge(int64_t image, int64_t oy, int rows, const char* const* in, int64_t ox, int tile, const Range& blocks) {
    const int k = static_cast<int>(g_.kh), s = static_cast<int>(g_.sh), in_rows = (rows - 1) * s + k, wide = (tile - 1) * s + k;
    const char** p = pixel_;
    for (int r = 0; r < in_rows; ++r)
      for (int x = 0; x < wide; ++x) {
        const int64_t ix = ox * s - g_.left + x;
        *p++ = in[r] && ix >= 0 && ix < g_.width ? in[r] + ix * c_.pixel_bytes() : pad();
      }
    return call_blocks(p - pixel_, {Kind::kEdge, image, oy, ox, rows, std::min<int64_t>(tile, g_.ow - ox), 0, 1}, blocks);
  }

  // Any size, stride and dilation: the pixels of a few outputs, one by one.
  pc_status run_general(int64_t image, int64_t oy, const Range& blocks) {
    const int64_t group = c_.is_s8 ? c_.w.header->group : 1, taps = round_up(g_.kh * g_.kw, group);
    for (int64_t ox = 0; ox < g_.ow; ox += kGeneralColumns) {
      const int64_t columns = std::min(kGeneralColumns, g_.ow - ox);
      for (int64_t ky = 0; ky < g_.kh; ++ky) {
        const int64_t iy = oy * g_.sh - g_.top + ky * g_.dh;
        const char* in = nullptr;
        if (iy >= 0 && iy < g_.height) PC_TRY(row(image, iy, &in));
        for (int64_t j = 0; j < columns; ++j)
          for (int64_t kx = 0; kx < g_.kw; ++kx) {
            const int64_t ix = (ox + j) * g_.sw - g_.left + kx * g_.dw;
            pixel_[j * taps + ky * g_.kw + kx] = in && ix >= 0 && ix < g_.width ? in + ix * c_.pixel_bytes() : pad();
          }
      }
      for (int64_t j = 0; j < columns; ++j) std::fill(pixel_ + j * taps + g_.kh * g_.kw, pixel_ + (j + 1) * taps, pad());
      PC_TRY(call_blocks(columns * taps, {Kind::kTaps, image, oy, ox, 1, columns, 0, 1}, blocks));
    }
    return PC_OK;
  }

  // `count` pixels by their addresses. Those at the end of x are read from copies where a block would reach beyond it.
  pc_status call_blocks(int64_t count, Place place, const Range& blocks) {
    for (int64_t b = blocks.begin; b < blocks.end; b += place.blocks) {
      place.blocks = b < c_.cut.full ? blocks_at_once({b, std::min(blocks.end, c_.cut.full)}) : 1;
      DepthwiseS8Tile tile{};
      tile.pixel = pixel_;
      tile.offset = offset(b);
      tile.count = place.columns;
      tile.taps = count / place.columns;
      if (b == c_.cut.full && c_.is_s8 && !c_.through_ring) {
        const char *end = x_end(), *from = pad();
        char* copy = memory_ + layout_.copies;
        for (int64_t i = 0; i < count; ++i) {
          copied_[i] = pixel_[i] + tile.offset;
          if (pixel_[i] == from || end - copied_[i] >= reach(b)) continue;
          std::memcpy(copy, copied_[i], static_cast<size_t>(c_.cut.rest));
          copied_[i] = copy;
          copy += kMaxBlock;
        }
        tile.pixel = copied_;
        tile.offset = 0;
      }
      place.block = b;
      if (c_.is_s8) {
        PC_TRY(call_s8(tile, place));
      } else {
        DepthwiseF32Tile f32{};
        static_cast<DepthwiseTile&>(f32) = tile;
        PC_TRY(call_f32(f32, place));
      }
    }
    return PC_OK;
  }

  // ---- the kernel and its last step

  bool raw() const { return c_.is_s8 && !fast_; }
  int64_t blocks_at_once(const Range& blocks) const { return raw() ? 1 : blocks.end - blocks.begin; }

  void fill(DepthwiseTile& t, const Place& p) const {
    t.rows = p.rows;
    t.channels = c_.cut.channels(p.block);
    t.blocks = static_cast<int>(p.blocks);
    t.w_bytes = static_cast<ptrdiff_t>(c_.w.block_bytes);
    t.columns = static_cast<int>(p.columns);
    t.w = c_.w.blocks + static_cast<size_t>(p.block) * c_.w.block_bytes;
    const int64_t y_size = static_cast<int64_t>(size_of(c_.d.y_type));
    t.y_pixel = g_.outputs * y_size;
    t.y_row = g_.ow * t.y_pixel;
    t.y = c_.y + ((p.image * g_.oh + p.row) * g_.ow + p.column) * t.y_pixel + p.block * c_.cut.block * y_size;
  }

  pc_status call_f32(DepthwiseF32Tile& tile, const Place& p) {
    fill(tile, p);
    tile.bias = c_.d.bias ? c_.d.bias + p.block * c_.cut.block : nullptr;
    tile.low = c_.low;
    tile.high = c_.high;
    tile.together = c_.together();
    const DepthwiseF32Kernel& kernel = *c_.w.kernels->depthwise_f32;
    const auto function = p.kind == Kind::kTaps    ? kernel.taps
                          : p.kind == Kind::kStrip ? c_.f32->strip
                          : p.rows < c_.rows()     ? c_.f32->edge_row
                                                   : c_.f32->edge;
    function(tile);
    for (int r = 0; is_curve(c_.d.activation) && r < p.rows; ++r)
      c_.w.kernels->activation->in_place(c_.d.activation, reinterpret_cast<float*>(tile.y + r * tile.y_row), p.columns, tile.channels * p.blocks,
                                         g_.outputs);
    return PC_OK;
  }

  pc_status call_s8(DepthwiseS8Tile& tile, const Place& p) {
    const DepthwiseS8Kernel& kernel = *c_.w.kernels->depthwise_s8;
    fill(tile, p);
    if (p.kind == Kind::kTaps) tile.w = static_cast<const char*>(tile.w) + kernel.taps_offset(g_.kh, g_.kw);
    tile.start = ints(layout_.block_start) + p.block * c_.cut.block;
    tile.mult = floats(layout_.block_mult) + p.block * c_.cut.block;
    const bool y_signed = c_.d.y_type == PC_S8, x_signed = c_.d.x_type == PC_S8;
    const int32_t flip = y_signed ? 128 : 0;
    tile.y_zero_point = c_.d.y_zero_point + flip;
    tile.low = c_.q.low + flip;
    tile.high = c_.q.high + flip;
    tile.flip = static_cast<uint8_t>(flip);
    tile.dual = p.kind == Kind::kStrip && dual(p.block);
    tile.raw = raw() ? ints(layout_.raw) : nullptr;
    tile.raw_columns = kRawColumns;
    const auto function = p.kind == Kind::kTaps ? kernel.taps[raw()][x_signed] : c_.s8->strip[tile.dual][x_signed];
    function(tile);
    return raw() ? finish(tile, p) : static_cast<pc_status>(PC_OK);
  }

  int32_t* ints(size_t at) const { return reinterpret_cast<int32_t*>(memory_ + at); }
  float* floats(size_t at) const { return reinterpret_cast<float*>(memory_ + at); }

  // The sums of a tile, by the last step of gemm_s8.
  pc_status finish(const DepthwiseS8Tile& tile, const Place& p) {
    const DepthwiseS8Kernel& kernel = *c_.w.kernels->depthwise_s8;
    const pc_conv_desc& d = c_.d;
    const int64_t first = p.block * c_.cut.block;
    const bool curve = is_curve(d.activation), through_tile = curve && to_q8_, multiplied = to_q8_ && !curve;
    S8Tile t{};
    t.x_scale = &d.x_scale;
    t.scale = (multiplied ? floats(layout_.mult) : c_.w.scale) + first;
    // Whole vectors of it are read: of the last block it is filled up.
    alignas(kAlignment) float bias[kMaxBlock];
    t.bias = d.bias && !to_q8_ ? d.bias + first : nullptr;
    if (t.bias && tile.channels < c_.cut.block) {
      std::memset(bias, 0, sizeof bias);
      std::memcpy(bias, t.bias, static_cast<size_t>(tile.channels) * sizeof(float));
      t.bias = bias;
    }
    t.bias_q = d.bias && to_q8_ ? ints(layout_.bias_q) + first : nullptr;
    t.low = multiplied ? static_cast<float>(c_.q.low - d.y_zero_point) : c_.low;
    t.high = multiplied ? static_cast<float>(c_.q.high - d.y_zero_point) : c_.high;
    t.y_zero_point = d.y_zero_point;
    t.columns = tile.channels;
    float* wait = floats(layout_.tile);
    for (int r = 0; r < p.rows; ++r) {
      char* y = tile.y + r * tile.y_row;
      t.y = through_tile ? reinterpret_cast<char*>(wait) : y;
      t.ldy = through_tile ? c_.cut.block * 4 : tile.y_pixel;
      kernel.finish[d.y_type == PC_S32 ? 0 : multiplied ? 2 : 1](t, tile.raw + r * kRawColumns * c_.cut.block, c_.cut.block, p.columns);
      if (!curve) continue;
      c_.w.kernels->activation->in_place(d.activation, static_cast<float*>(t.y), p.columns, t.columns, t.ldy / 4);
      bool finite = true;
      for (int64_t i = 0; through_tile && i < p.columns; ++i)
        finite &=
            c_.w.kernels->quant->quantize(wait + i * c_.cut.block, t.columns, d.y_scale, d.y_zero_point, c_.q.low, c_.q.high, y + i * tile.y_pixel);
      PC_CHECK(finite, PC_ERROR_NONFINITE, "an activation gave NaN, which can't be quantized: the scales are out of proportion");
    }
    return PC_OK;
  }

  // Multipliers, biases and starts of the channels of these blocks. fast_: the kernel itself does the last step.
  pc_status prepare_last_step(const Range& blocks) {
    const pc_conv_desc& d = c_.d;
    const DepthwiseS8Kernel& kernel = *c_.w.kernels->depthwise_s8;
    const int64_t first = blocks.begin * c_.cut.block, count = std::min(g_.outputs, blocks.end * c_.cut.block) - first;
    Requantization p{};
    p.scale = c_.w.scale + first;
    p.sum = c_.w.sum + first;
    p.bias = to_q8_ && d.bias ? d.bias + first : nullptr;
    p.count = count;
    p.x_scale = d.y_type == PC_S32 ? 1.0f : d.x_scale;
    p.y_scale = to_q8_ && !is_curve(d.activation) ? d.y_scale : 1.0f;
    p.x_zero_point = d.x_zero_point + (d.x_type == PC_S8 ? 128 : 0);
    p.most = static_cast<float>(g_.kh * g_.kw * 255 * 128);
    p.mult = floats(layout_.mult) + first;
    p.bias_q = ints(layout_.bias_q) + first;
    p.start = ints(layout_.start) + first;
    bool safe = false;
    const bool ok = c_.w.kernels->quant->requantization(p, &safe);
    if (to_q8_ && !ok) return what_is_not_finite(first, count, p);
    fast_ = safe && to_q8_ && !is_curve(d.activation);
    for (int64_t i = 0; i < count; ++i) {
      if (fast_) break;
      p.start[i] = static_cast<int32_t>(0u - static_cast<uint32_t>(p.x_zero_point) * static_cast<uint32_t>(p.sum[i]));
      if (!p.bias) continue;
      const float q = p.bias[i] / (p.x_scale * p.scale[i]);
      p.bias_q[i] = q >= 2147483648.0f ? INT32_MAX : q <= -2147483648.0f ? INT32_MIN : static_cast<int32_t>(std::llrintf(q));
    }
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const int64_t at = b * c_.cut.block;
      kernel.order(ints(layout_.start) + at, c_.cut.channels(b), dual(b), ints(layout_.block_start) + at);
      kernel.order(floats(layout_.mult) + at, c_.cut.channels(b), dual(b), floats(layout_.block_mult) + at);
    }
    return PC_OK;
  }

  pc_status what_is_not_finite(int64_t first, int64_t count, const Requantization& p) const {
    for (int64_t i = 0; i < count; ++i) {
      PC_CHECK(!p.bias || std::isfinite(p.bias[i]), PC_ERROR_NONFINITE, "bias[%lld] is %g and can't be quantized", ll(first + i),
               static_cast<double>(p.bias[i]));
      PC_CHECK(std::isfinite(p.mult[i]), PC_ERROR_VALUE, "x_scale * w_scale[%lld] / y_scale is %g * %g / %g, which is not finite", ll(first + i),
               static_cast<double>(p.x_scale), static_cast<double>(p.scale[i]), static_cast<double>(c_.d.y_scale));
    }
    return PC_OK;
  }

  const Call& c_;
  const Geometry& g_;
  const Workspace& layout_;
  char* memory_;
  const char** pixel_;
  const char** copied_;
  int64_t* tags_;
  bool to_q8_, fast_ = false;
};

}  // namespace
}  // namespace pc

extern "C" {

pc_status pc_depthwise_workspace_size(const pc_conv_desc* desc, const void* packed, size_t bytes, int32_t nth, size_t* workspace_bytes) {
  using namespace pc;
  PC_CHECK(workspace_bytes, PC_ERROR_NULL, "workspace_bytes is NULL");
  PC_TRY(check_part(0, nth));
  Call call{};
  PC_TRY(check_desc(desc, packed, bytes, &call));
  return workspace_of_parts(workspace_of(call).bytes, nth, workspace_bytes);
}

pc_status pc_depthwise_run(const pc_conv_desc* desc, const void* packed, size_t bytes, const void* x, void* y, void* workspace,
                           size_t workspace_bytes, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  Call call{};
  PC_TRY(check_desc(desc, packed, bytes, &call));
  call.x = static_cast<const char*>(x);
  call.y = static_cast<char*>(y);
  const Workspace layout = workspace_of(call);
  size_t needed = 0;
  PC_TRY(workspace_of_parts(layout.bytes, nth, &needed));
  PC_TRY(check_operands(call, bytes, workspace, workspace_bytes, needed));
  set_last_kernel(call.is_s8 ? call.w.kernels->depthwise_s8->name : call.w.kernels->depthwise_f32->name);
  const Block block = block_of(call.g.batch * call.bands(), call.cut.count, 1, 1, ith, nth);
  return Part(call, layout, static_cast<char*>(workspace) + static_cast<size_t>(ith) * layout.bytes).run(block);
}
}
