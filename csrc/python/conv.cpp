// Convolutions: depthwise, dense by tiles of im2col rows through any packed weight, and both fused.
#include <array>
#include <cmath>
#include <cstring>
#include <memory>

#include "conv/bands.h"
#include "core/partition.h"
#include "native.h"

namespace pc::python {

namespace {

constexpr double kValuesPerThread = 1 << 17;
constexpr int64_t kTileBytes = 160 * 1024;  // of rows that wait for their product: they share L2 with a panel of the weight
constexpr int64_t kTileRows = 48;           // their number is a multiple of it, and so of every kernel's tile

// Stride, dilation, padding at the top, left, bottom and right.
using Shape = std::array<int64_t, 8>;

pc_conv_desc conv_desc(const py::array& x, int64_t outputs, int64_t kh, int64_t kw, const Shape& shape) {
  pc_conv_desc d{};
  d.size = sizeof d;
  d.batch = x.shape(0);
  d.height = x.shape(1);
  d.width = x.shape(2);
  d.channels = x.shape(3);
  d.outputs = outputs;
  d.kernel_height = kh;
  d.kernel_width = kw;
  d.stride_height = shape[0];
  d.stride_width = shape[1];
  d.dilation_height = shape[2];
  d.dilation_width = shape[3];
  d.pad_top = shape[4];
  d.pad_left = shape[5];
  d.pad_bottom = shape[6];
  d.pad_right = shape[7];
  d.x_type = type_of(x);
  d.y_type = PC_F32;
  return d;
}

// Scale and zero point of a float32 image: DynamicQuantizeLinear's, of a zero image where the scale has no inverse.
void dynamic_qparams(const float* x, int64_t count, Threads num_threads, float* scale, int32_t* zero_point) {
  const int32_t nth = threads_for(static_cast<double>(count) / kValuesPerThread, num_threads);
  std::vector<float> ranges(2 * static_cast<size_t>(nth));
  check(parallel(nth, count < 4096, [&](int32_t i, int32_t n) { return pc_range_run(x, count, ranges.data(), i, n); }));
  check(pc_dynamic_qparams(ranges.data(), nth, scale, zero_point));
  if (!std::isfinite(1.0f / *scale)) {
    *scale = 1.0f / 255.0f;
    *zero_point = 0;
  }
}

// The arguments of a fast path: what is plainly right of them.
struct FastCall {
  pc_conv_desc d{};
  Plain x;
  Threads threads;
  py::object result;
  void* y = nullptr;
};

bool plain_geometry(py::handle stride, py::handle padding, py::handle dilation, pc_conv_desc* d) {
  int64_t s[2], l[2], p[4];
  if (!plain_ints(stride, 2, 1, s) || !plain_ints(dilation, 2, 1, l)) return false;
  if (PyUnicode_CheckExact(padding.ptr())) {
    if (PyUnicode_CompareWithASCIIString(padding.ptr(), "same") != 0) return false;
    const int64_t size[2] = {d->height, d->width}, kernel[2] = {d->kernel_height, d->kernel_width};
    for (int i = 0; i < 2; ++i) {
      const int64_t total = std::max<int64_t>((divide_up(size[i], s[i]) - 1) * s[i] + (kernel[i] - 1) * l[i] + 1 - size[i], 0);
      p[i] = total / 2;
      p[i + 2] = total - p[i];
    }
  } else if (PyTuple_CheckExact(padding.ptr()) && PyTuple_GET_SIZE(padding.ptr()) == 2) {
    if (!plain_ints(padding, 2, 0, p)) return false;
    p[2] = p[0];
    p[3] = p[1];
  } else if (!plain_ints(padding, 4, 0, p)) {
    return false;
  }
  d->stride_height = s[0];
  d->stride_width = s[1];
  d->dilation_height = l[0];
  d->dilation_width = l[1];
  d->pad_top = p[0];
  d->pad_left = p[1];
  d->pad_bottom = p[2];
  d->pad_right = p[3];
  return true;
}

// The arguments of an operation on NHWC images, in the order of `Arguments`; false when one of them is not plainly right.
struct Arguments {
  py::handle x, bias, stride, padding, dilation, activation, x_qparams, y_qparams, out, num_threads;
};

bool plain_call(const Arguments& a, bool quantizes, int64_t outputs, int64_t kh, int64_t kw, const std::vector<Span>& stored, FastCall* c) {
  c->x = plain(a.x);
  const auto* x = c->x.array;
  if (!x || x->nd != 4) return false;
  pc_conv_desc& d = c->d;
  d.size = sizeof d;
  d.batch = x->dimensions[0];
  d.height = x->dimensions[1];
  d.width = x->dimensions[2];
  d.channels = x->dimensions[3];
  d.outputs = outputs;
  d.kernel_height = kh;
  d.kernel_width = kw;
  const pc_type type = d.x_type = c->x.type;
  if (quantizes ? type != PC_F32 && a.x_qparams.is_none() : type != PC_F32 || !a.x_qparams.is_none()) return false;
  if (!a.x_qparams.is_none() && !plain_qparams(a.x_qparams, type, &d.x_scale, &d.x_zero_point)) return false;
  if (!a.x_qparams.is_none() && type == PC_F32 && !std::isfinite(1.0f / d.x_scale)) return false;
  if (!a.y_qparams.is_none() && (type == PC_F32 || !plain_qparams(a.y_qparams, type, &d.y_scale, &d.y_zero_point))) return false;
  d.y_type = a.y_qparams.is_none() ? PC_F32 : type;
  const py::detail::PyArray_Proxy* bias = nullptr;
  if (!a.bias.is_none()) {
    bias = plain_float32(a.bias);
    if (!bias || bias->nd != 1 || bias->dimensions[0] != outputs) return false;
    d.bias = reinterpret_cast<const float*>(bias->data);
  }
  if (!named_activation(a.activation, &d.activation, &d.low, &d.high)) return false;
  if (!plain_threads(a.num_threads, &c->threads)) return false;
  int64_t oh, ow;
  if (!plain_geometry(a.stride, a.padding, a.dilation, &d) || pc_conv_output_size(&d, &oh, &ow) != PC_OK) return false;
  const int64_t shape[4] = {d.batch, oh, ow, outputs};
  c->result = plain_result(a.out, shape, 4, d.y_type);
  if (!c->result) return false;
  if (!a.out.is_none()) {
    const Plain o = plain(a.out);
    const size_t bytes = static_cast<size_t>(size_of(o.array)) * static_cast<size_t>(size_of(o.type));
    for (const Span& span : stored)
      if (pc::overlap(o.array->data, bytes, span.begin, span.bytes)) return false;
    if (overlap(o, x, type) || (bias && overlap(o, bias, PC_F32))) return false;
  }
  c->y = py::detail::array_proxy(c->result.ptr())->data;
  return true;
}

struct DepthwisePacked {
  AlignedMemory memory;
  std::vector<Span> stored;
  pc_type type;
  int64_t outputs, kh, kw;
  const char* kernel = "";

  explicit DepthwisePacked(size_t bytes) : memory(bytes) {}

  double threads_worth(int64_t results) const {
    const bool s8 = type == PC_S8;
    // A sum of few taps costs its last step, and a byte its way from memory: an eighth of the speed of a product with long sums.
    return static_cast<double>(results) * static_cast<double>(kh * kw) * 8 / macs_per_thread(std::strchr(kernel, '/') + 1, s8);
  }
};

std::unique_ptr<DepthwisePacked> pack_depthwise(const py::array& w, const std::optional<py::array>& scale) {
  const pc_type type = type_of(w);
  size_t bytes;
  check(pc_depthwise_pack_size(type, w.shape(0), w.shape(1), w.shape(2), &bytes));
  auto packed = std::make_unique<DepthwisePacked>(bytes);
  packed->stored = {span_of(w)};
  if (scale) packed->stored.push_back(span_of(*scale));
  check(pc_depthwise_pack(w.data(), type, w.shape(0), w.shape(1), w.shape(2), data<float>(scale), packed->memory.get(), bytes));
  check(pc_depthwise_packed_info(packed->memory.get(), bytes, &packed->type, &packed->outputs, &packed->kh, &packed->kw, &packed->kernel));
  return packed;
}

void run_depthwise(pc_conv_desc d, const DepthwisePacked& w, const void* x, void* y, Threads num_threads) {
  int64_t oh, ow;
  check(pc_conv_output_size(&d, &oh, &ow));
  if (w.type == PC_S8 && d.x_type == PC_F32 && d.x_scale == 0)
    dynamic_qparams(static_cast<const float*>(x), d.batch * d.height * d.width * d.channels, num_threads, &d.x_scale, &d.x_zero_point);
  const double worth = w.threads_worth(d.batch * oh * ow * d.outputs);
  const int32_t nth = threads_for(worth, num_threads);
  size_t bytes;
  check(pc_depthwise_workspace_size(&d, w.memory.get(), w.memory.size(), nth, &bytes));
  Workspace workspace(bytes);
  check(parallel(nth, worth < kSmall, [&](int32_t ith, int32_t of) {
    return pc_depthwise_run(&d, w.memory.get(), w.memory.size(), x, y, workspace.get(), bytes, ith, of);
  }));
}

void depthwise(const py::array& x, const DepthwisePacked& w, const std::optional<py::array>& bias, const Activation& activation,
               const QParams& x_qparams, const QParams& y_qparams, const Shape& shape, const py::array& out, Threads num_threads) {
  pc_conv_desc d = conv_desc(x, w.outputs, w.kh, w.kw, shape);
  d.y_type = type_of(out);
  if (x_qparams) std::tie(d.x_scale, d.x_zero_point) = *x_qparams;
  if (y_qparams) std::tie(d.y_scale, d.y_zero_point) = *y_qparams;
  d.bias = data<float>(bias);
  std::tie(d.activation, d.low, d.high) = activation;
  run_depthwise(d, w, x.data(), data<void>(out), num_threads);
}

py::object depthwise_fast(py::handle x, py::handle weight, py::handle bias, py::handle stride, py::handle padding, py::handle dilation,
                          py::handle activation, py::handle x_qparams, py::handle y_qparams, py::handle out, py::handle num_threads) {
  const py::object no = py::reinterpret_borrow<py::object>(Py_NotImplemented);
  if (!py::isinstance<DepthwisePacked>(weight)) return no;
  const DepthwisePacked& w = *py::cast<const DepthwisePacked*>(weight);
  FastCall c;
  if (!plain_call({x, bias, stride, padding, dilation, activation, x_qparams, y_qparams, out, num_threads}, w.type == PC_S8, w.outputs, w.kh, w.kw,
                  w.stored, &c))
    return no;
  if (c.d.channels == 0 || w.outputs % c.d.channels != 0) return no;
  run_depthwise(c.d, w, c.x.array->data, c.y, c.threads);
  return c.result;
}

// ---- dense

LinearCall call_of(pc_type x_type, const std::optional<py::array>& bias, const Activation& activation, const QParams& x_qparams,
                   const QParams& y_qparams, const py::array& out, Threads num_threads) {
  LinearCall c;
  c.x_type = x_type;
  c.y_type = type_of(out);
  if (x_qparams) std::tie(c.x_scale, c.x_zero_point) = *x_qparams;
  if (y_qparams) std::tie(c.y_scale, c.y_zero_point) = *y_qparams;
  c.bias = data<float>(bias);
  std::tie(c.activation, c.low, c.high) = activation;
  c.threads = num_threads;
  return c;
}

int64_t rows_of_tile(int64_t row_bytes) { return std::clamp<int64_t>(kTileBytes / std::max<int64_t>(row_bytes, 1) / kTileRows, 1, 10) * kTileRows; }

// x, or what it is quantized to.
struct Input {
  const void* x;
  pc_type type;
  std::unique_ptr<AlignedMemory> own;
};

Input quantized(const float* x, int64_t count, LinearCall* c) {
  if (c->x_scale == 0) dynamic_qparams(x, count, c->threads, &c->x_scale, &c->x_zero_point);
  auto own = std::make_unique<AlignedMemory>(static_cast<size_t>(count));
  const int32_t nth = threads_for(static_cast<double>(count) / kValuesPerThread, c->threads);
  check(parallel(nth, count < 4096, [&](int32_t i, int32_t n) {
    return pc_quantize_by_run(x, count, c->x_scale, c->x_zero_point, static_cast<uint8_t*>(own->get()), i, n);
  }));
  c->x_type = PC_U8;
  void* at = own->get();
  return {at, PC_U8, std::move(own)};
}

// The weight of a dense convolution: a matrix [outputs, kh * kw * channels] for each group.
struct ConvPacked {
  std::vector<py::object> owners;
  std::vector<const Packed*> groups;
  int64_t kh, kw;
  std::vector<Span> stored;

  int64_t outputs() const { return groups[0]->n * static_cast<int64_t>(groups.size()); }
};

std::unique_ptr<ConvPacked> pack_conv(const std::vector<py::object>& groups, int64_t kh, int64_t kw, const std::vector<py::array>& stored) {
  auto packed = std::make_unique<ConvPacked>();
  packed->owners = groups;
  for (const py::object& group : groups) packed->groups.push_back(py::cast<const Packed*>(group));
  packed->kh = kh;
  packed->kw = kw;
  for (const py::array& a : stored) packed->stored.push_back(span_of(a));
  return packed;
}

// Enough for any number of rows up to a tile: fewer may need more, where a kind then cuts k in another way.
size_t workspace_of_tiles(const std::vector<const Packed*>& weights, LinearCall call, int64_t tile) {
  size_t needed = 0;
  for (const Packed* w : weights)
    for (const int64_t rows : {tile, int64_t{32}, int64_t{8}, int64_t{1}}) {
      size_t bytes;
      call.m = std::min(rows, tile);
      check(w->workspace_size(call, 1, &bytes));
      needed = std::max(needed, bytes);
    }
  return needed;
}

// d without what the last step needs: that is in `call`.
void run_conv(pc_conv_desc d, const ConvPacked& w, LinearCall call, const void* x, void* out) {
  int64_t oh, ow;
  check(pc_conv_output_size(&d, &oh, &ow));
  Input input{x, d.x_type, nullptr};
  if (w.groups[0]->quantizes() && d.x_type == PC_F32)
    input = quantized(static_cast<const float*>(x), d.batch * d.height * d.width * d.channels, &call);
  const int64_t groups = static_cast<int64_t>(w.groups.size()), n = w.groups[0]->n, k = w.groups[0]->k, channels = d.channels / groups;
  d.x_type = input.type;
  d.x_zero_point = call.x_zero_point;
  const int64_t m = d.batch * oh * ow, x_size = size_of(d.x_type), y_size = size_of(call.y_type);
  double worth = 0;
  for (const Packed* group : w.groups) worth += group->threads_worth(m);
  if (groups == 1 && d.kernel_height * d.kernel_width == 1 && d.stride_height * d.stride_width == 1 &&
      d.pad_top + d.pad_left + d.pad_bottom + d.pad_right == 0) {  // the image is that matrix
    call.m = m;
    call.x = input.x;
    call.y = out;
    return w.groups[0]->linear(call);
  }
  d.y_type = call.y_type;
  call.x = input.x;
  call.y = out;
  if (size_t bytes = 0; w.groups[0]->conv_workspace_size(call, d, groups, threads_for(worth, call.threads), &bytes) != PC_ERROR_TYPE) {
    const int32_t nth = threads_for(worth, call.threads);
    for (const Packed* group : w.groups) {
      size_t own;
      check(group->conv_workspace_size(call, d, groups, nth, &own));
      bytes = std::max(bytes, own);
    }
    Workspace workspace(bytes);
    return check(parallel(nth, worth < kSmall, [&](int32_t ith, int32_t of) {
      for (int64_t g = 0; g < groups; ++g) PC_TRY(w.groups[static_cast<size_t>(g)]->conv_run(call, d, g, groups, workspace.get(), bytes, ith, of));
      return static_cast<pc_status>(PC_OK);
    }));
  }
  const int64_t tile = std::min(rows_of_tile(k * x_size), std::max<int64_t>(m, 1));
  const size_t needed = workspace_of_tiles(w.groups, call, tile);
  const int32_t nth = threads_for(std::min(worth, static_cast<double>(divide_up(m, int64_t{kTileRows / 4}))), call.threads);
  const auto section = [](int64_t bytes) { return round_up(static_cast<size_t>(bytes), kAlignment); };
  const size_t rows_at = section(static_cast<int64_t>(needed)), y_at = rows_at + section(tile * k * x_size);
  const size_t part = y_at + (groups > 1 ? section(tile * n * y_size) : 0);
  Workspace workspace(part * static_cast<size_t>(nth));
  check(parallel(nth, worth < kSmall, [&](int32_t ith, int32_t of) {
    char* mine = static_cast<char*>(workspace.get()) + part * static_cast<size_t>(ith);
    const Range range = part_of(m, 4, ith, of);
    for (int64_t first = range.begin; first < range.end; first += tile) {
      const int64_t rows = std::min(tile, range.end - first);
      for (int64_t g = 0; g < groups; ++g) {
        LinearCall c = call;
        c.m = rows;
        c.x = mine + rows_at;
        char* y = static_cast<char*>(out) + (first * n * groups + g * n) * y_size;
        c.y = groups > 1 ? mine + y_at : y;
        if (c.bias) c.bias += g * n;
        if (c.w_zero_points) c.w_zero_points += g * n;
        PC_TRY(pc_im2col_run(&d, input.x, g * channels, channels, first, rows, mine + rows_at));
        PC_TRY(w.groups[static_cast<size_t>(g)]->run(c, mine, needed, 0, 1));
        for (int64_t r = 0; groups > 1 && r < rows; ++r)
          std::memcpy(y + r * n * groups * y_size, mine + y_at + r * n * y_size, static_cast<size_t>(n * y_size));
      }
    }
    return static_cast<pc_status>(PC_OK);
  }));
}

void conv(const py::array& x, const ConvPacked& w, const std::optional<py::array>& bias, const Activation& activation, const QParams& x_qparams,
          const QParams& y_qparams, const Shape& shape, const py::array& out, Threads num_threads, const std::optional<py::array>& w_zero_point) {
  LinearCall call = call_of(type_of(x), bias, activation, x_qparams, y_qparams, out, num_threads);
  call.w_zero_points = data<int32_t>(w_zero_point);
  run_conv(conv_desc(x, w.outputs(), w.kh, w.kw, shape), w, call, x.data(), data<void>(out));
}

py::object conv_fast(py::handle x, py::handle weight, py::handle bias, py::handle stride, py::handle padding, py::handle dilation,
                     py::handle activation, py::handle x_qparams, py::handle y_qparams, py::handle out, py::handle num_threads) {
  const py::object no = py::reinterpret_borrow<py::object>(Py_NotImplemented);
  if (!py::isinstance<ConvPacked>(weight)) return no;
  const ConvPacked& w = *py::cast<const ConvPacked*>(weight);
  FastCall c;
  if (!plain_call({x, bias, stride, padding, dilation, activation, x_qparams, y_qparams, out, num_threads}, w.groups[0]->quantizes(), w.outputs(),
                  w.kh, w.kw, w.stored, &c))
    return no;
  if (w.groups[0]->k == 0 || c.d.channels * w.kh * w.kw != w.groups[0]->k * static_cast<int64_t>(w.groups.size())) return no;
  LinearCall call;
  call.x_type = c.d.x_type;
  call.y_type = c.d.y_type;
  call.x_scale = c.d.x_scale;
  call.x_zero_point = c.d.x_zero_point;
  call.y_scale = c.d.y_scale;
  call.y_zero_point = c.d.y_zero_point;
  call.bias = c.d.bias;
  call.activation = c.d.activation;
  call.low = c.d.low;
  call.high = c.d.high;
  call.threads = c.threads;
  run_conv(c.d, w, call, c.x.array->data, c.y);
  return c.result;
}

// ---- depthwise and pointwise, fused

// A few rows of what lies between at a time: they are multiplied while they are in L2. `call` is the pointwise product.
void run_separable(const pc_conv_desc& d, const DepthwisePacked& depthwise, const Packed& pointwise, LinearCall call, const void* x, void* out) {
  int64_t oh, ow;
  check(pc_conv_output_size(&d, &oh, &ow));
  const int64_t mid = ow * d.outputs * size_of(d.y_type), y = ow * pointwise.n * size_of(call.y_type);
  const double worth = depthwise.threads_worth(d.batch * oh * ow * d.outputs) + pointwise.threads_worth(d.batch * oh * ow);
  const int32_t nth = threads_for(worth, call.threads);
  const Bands cut = bands_of(d.batch, oh, mid, nth);
  const int64_t rows = cut.rows, bands = cut.count;
  size_t depthwise_bytes = 0;
  for (const int64_t count : {std::min(rows, oh), oh - (bands - 1) * rows}) {
    size_t bytes;
    const pc_conv_desc band = largest_band(d, count);
    check(pc_depthwise_workspace_size(&band, depthwise.memory.get(), depthwise.memory.size(), 1, &bytes));
    depthwise_bytes = std::max(depthwise_bytes, bytes);
  }
  const size_t pointwise_bytes = workspace_of_tiles({&pointwise}, call, rows * ow);
  const auto section = [](size_t bytes) { return round_up(bytes, kAlignment); };
  const size_t at_mid = section(std::max(depthwise_bytes, pointwise_bytes)), part = at_mid + section(static_cast<size_t>(rows * mid));
  Workspace workspace(part * static_cast<size_t>(nth));
  check(parallel(nth, worth < kSmall, [&](int32_t ith, int32_t of) {
    char* mine = static_cast<char*>(workspace.get()) + part * static_cast<size_t>(ith);
    const Range range = part_of(d.batch * bands, 1, ith, of);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t image = i / bands, begin = i % bands * rows, end = std::min(oh, begin + rows);
      int64_t offset;
      const pc_conv_desc band = band_of(d, image, begin, end, &offset);
      PC_TRY(pc_depthwise_run(&band, depthwise.memory.get(), depthwise.memory.size(), static_cast<const char*>(x) + offset * size_of(d.x_type),
                              mine + at_mid, mine, depthwise_bytes, 0, 1));
      LinearCall c = call;
      c.m = (end - begin) * ow;
      c.x = mine + at_mid;
      c.y = static_cast<char*>(out) + (image * oh + begin) * y;
      PC_TRY(pointwise.run(c, mine, pointwise_bytes, 0, 1));
    }
    return static_cast<pc_status>(PC_OK);
  }));
}

void separable(const py::array& x, const DepthwisePacked& depthwise, const Packed& pointwise, const std::optional<py::array>& depthwise_bias,
               const std::optional<py::array>& bias, const Activation& depthwise_activation, const Activation& activation, const QParams& x_qparams,
               const QParams& mid_qparams, const QParams& y_qparams, const Shape& shape, const py::array& out, Threads num_threads) {
  pc_conv_desc d = conv_desc(x, depthwise.outputs, depthwise.kh, depthwise.kw, shape);
  const bool quantized = d.x_type != PC_F32;
  d.y_type = quantized && mid_qparams ? d.x_type : PC_F32;
  if (x_qparams) std::tie(d.x_scale, d.x_zero_point) = *x_qparams;
  if (d.y_type != PC_F32) std::tie(d.y_scale, d.y_zero_point) = *mid_qparams;
  d.bias = data<float>(depthwise_bias);
  std::tie(d.activation, d.low, d.high) = depthwise_activation;
  if (depthwise.type == PC_S8 && !quantized && !x_qparams) dynamic_qparams(data<float>(x), x.size(), num_threads, &d.x_scale, &d.x_zero_point);
  run_separable(d, depthwise, pointwise, call_of(d.y_type, bias, activation, mid_qparams, y_qparams, out, num_threads), x.data(), data<void>(out));
}

py::object separable_fast(py::handle x, py::handle depthwise, py::handle pointwise, py::handle depthwise_bias, py::handle bias, py::handle stride,
                          py::handle padding, py::handle dilation, py::handle depthwise_activation, py::handle activation, py::handle x_qparams,
                          py::handle mid_qparams, py::handle y_qparams, py::handle out, py::handle num_threads) {
  const py::object no = py::reinterpret_borrow<py::object>(Py_NotImplemented);
  if (!py::isinstance<DepthwisePacked>(depthwise) || !py::isinstance<ConvPacked>(pointwise)) return no;
  const DepthwisePacked& w = *py::cast<const DepthwisePacked*>(depthwise);
  const ConvPacked& p = *py::cast<const ConvPacked*>(pointwise);
  if (p.groups.size() != 1 || p.kh * p.kw != 1 || p.groups[0]->k != w.outputs || p.groups[0]->quantizes() == mid_qparams.is_none()) return no;
  std::vector<Span> stored = w.stored;
  stored.insert(stored.end(), p.stored.begin(), p.stored.end());
  FastCall c;
  if (!plain_call({x, bias, stride, padding, dilation, activation, x_qparams, y_qparams, out, num_threads}, w.type == PC_S8, p.outputs(), w.kh, w.kw,
                  stored, &c))
    return no;
  if (c.d.channels == 0 || w.outputs % c.d.channels != 0) return no;
  const bool quantized = c.d.x_type != PC_F32;
  LinearCall call;
  call.y_type = c.d.y_type;
  call.y_scale = c.d.y_scale;
  call.y_zero_point = c.d.y_zero_point;
  call.bias = c.d.bias;
  call.activation = c.d.activation;
  call.low = c.d.low;
  call.high = c.d.high;
  call.threads = c.threads;
  const bool to_q8 = quantized && !mid_qparams.is_none();
  if (call.y_type != PC_F32 && !to_q8) return no;
  pc_conv_desc d = c.d;
  d.outputs = w.outputs;
  d.y_type = call.x_type = to_q8 ? d.x_type : PC_F32;
  d.bias = nullptr;
  if (!mid_qparams.is_none() && !plain_qparams(mid_qparams, d.y_type, &call.x_scale, &call.x_zero_point)) return no;
  if (!mid_qparams.is_none() && !std::isfinite(1.0f / call.x_scale)) return no;
  d.y_scale = to_q8 ? call.x_scale : 0;
  d.y_zero_point = to_q8 ? call.x_zero_point : 0;
  if (!depthwise_bias.is_none()) {
    const auto* b = plain_float32(depthwise_bias);
    if (!b || b->nd != 1 || b->dimensions[0] != w.outputs) return no;
    d.bias = reinterpret_cast<const float*>(b->data);
    if (overlap(plain(c.result), b, PC_F32)) return no;
  }
  if (!named_activation(depthwise_activation, &d.activation, &d.low, &d.high)) return no;
  const void* image = c.x.array->data;
  if (w.type == PC_S8 && !quantized && d.x_scale == 0)
    dynamic_qparams(static_cast<const float*>(image), d.batch * d.height * d.width * d.channels, c.threads, &d.x_scale, &d.x_zero_point);
  run_separable(d, w, *p.groups[0], call, image, c.y);
  return c.result;
}

void transpose(const py::array& x, int64_t batch, int64_t rows, int64_t columns, const py::array& out, Threads num_threads) {
  const int32_t nth = threads_for(static_cast<double>(x.size()) / kValuesPerThread, num_threads);
  check(parallel(nth, x.size() < 4096, [&](int32_t i, int32_t n) {
    return pc_transpose_run(x.data(), batch, rows, columns, static_cast<int32_t>(x.itemsize()), data<void>(out), i, n);
  }));
}

}  // namespace

void bind_conv(py::module_& m) {
  const auto threads = py::arg("num_threads") = py::none();
  py::class_<DepthwisePacked>(m, "DepthwisePacked", "A depthwise weight, packed for the instruction set that was in use.")
      .def_readonly("kernel", &DepthwisePacked::kernel);
  m.def("pack_depthwise", &pack_depthwise, py::arg("w"), py::arg("scale"));
  m.def("depthwise", &depthwise, py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("activation"), py::arg("x_qparams"), py::arg("y_qparams"),
        py::arg("shape"), py::arg("out"), threads);
  m.def("depthwise_fast", &depthwise_fast, "depthwise_conv2d() where everything is plainly right; NotImplemented otherwise.");
  m.def("conv_fast", &conv_fast, "conv2d() where everything is plainly right; NotImplemented otherwise.");
  py::class_<ConvPacked>(m, "ConvPacked", "The weight of a dense convolution: a packed matrix for each group.")
      .def("of_group", [](const ConvPacked& w, size_t i) { return w.owners.at(i); });
  m.def("pack_conv", &pack_conv, py::arg("groups"), py::arg("kh"), py::arg("kw"), py::arg("stored"));
  m.def("conv", &conv, py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("activation"), py::arg("x_qparams"), py::arg("y_qparams"),
        py::arg("shape"), py::arg("out"), threads, py::arg("w_zero_point") = py::none());
  m.def("separable_fast", &separable_fast, "separable_conv2d() where everything is plainly right; NotImplemented otherwise.");
  m.def("separable", &separable, py::arg("x"), py::arg("depthwise"), py::arg("pointwise"), py::arg("depthwise_bias"), py::arg("bias"),
        py::arg("depthwise_activation"), py::arg("activation"), py::arg("x_qparams"), py::arg("mid_qparams"), py::arg("y_qparams"), py::arg("shape"),
        py::arg("out"), threads);
  m.def("transpose", &transpose, py::arg("x"), py::arg("batch"), py::arg("rows"), py::arg("columns"), py::arg("out"), threads);
}

}  // namespace pc::python
