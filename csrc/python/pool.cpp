// Pooling and addition of images.
#include <algorithm>
#include <array>

#include "native.h"

namespace pc::python {

namespace {

constexpr double kValuesPerThread = 1 << 17;
constexpr int64_t kFewValues = 1 << 14;  // keep the GIL: giving it back costs more

void run_pool(const pc_pool_desc& d, const void* x, void* y, Threads num_threads) {
  const double results = static_cast<double>(d.batch * d.out_height * d.out_width * d.channels);
  const double values = results * static_cast<double>(d.kernel_height * d.kernel_width);
  const int32_t nth = threads_for(values / kValuesPerThread, num_threads);
  check(parallel(nth, values < kFewValues, [&](int32_t ith, int32_t of) { return pc_pool_run(&d, x, y, ith, of); }));
}

void pool(const py::array& x, const py::array& out, int32_t mode, const std::array<int64_t, 8>& geometry, const QParams& x_qparams,
          const QParams& y_qparams, Threads num_threads) {
  pc_pool_desc d{};
  d.size = sizeof d;
  d.batch = x.shape(0);
  d.height = x.shape(1);
  d.width = x.shape(2);
  d.channels = x.shape(3);
  d.out_height = out.shape(1);
  d.out_width = out.shape(2);
  d.mode = mode;
  d.kernel_height = geometry[0];
  d.kernel_width = geometry[1];
  d.stride_height = geometry[2];
  d.stride_width = geometry[3];
  d.dilation_height = geometry[4];
  d.dilation_width = geometry[5];
  d.top = geometry[6];
  d.left = geometry[7];
  d.x_type = type_of(x);
  d.y_type = type_of(out);
  if (x_qparams) std::tie(d.x_scale, d.x_zero_point) = *x_qparams;
  if (y_qparams) std::tie(d.y_scale, d.y_zero_point) = *y_qparams;
  run_pool(d, x.data(), data<void>(out), num_threads);
}

// `kernel` None is the whole image, `stride` None the kernel.
py::object pool_fast(py::handle x, int32_t mode, py::handle kernel, py::handle stride, py::handle padding, py::handle dilation, py::handle x_qparams,
                     py::handle y_qparams, py::handle out, py::handle num_threads) {
  const py::object no = py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const Plain px = plain(x);
  if (!px.array || px.array->nd != 4) return no;
  int64_t size[4], k[2], s[2], p[2], l[2], result[2];
  std::copy(px.array->dimensions, px.array->dimensions + 4, size);
  if (kernel.is_none())
    std::copy(size + 1, size + 3, k);
  else if (!plain_ints(kernel, 2, 1, k))
    return no;
  if (stride.is_none())
    std::copy(k, k + 2, s);
  else if (!plain_ints(stride, 2, 1, s))
    return no;
  if (!plain_ints(padding, 2, 0, p) || !plain_ints(dilation, 2, 1, l)) return no;
  for (int i = 0; i < 2; ++i) {
    const int64_t room = size[1 + i] + 2 * p[i] - l[i] * (k[i] - 1) - 1;
    if (k[i] == 0 || 2 * p[i] > k[i] || room < 0) return no;
    result[i] = room / s[i] + 1;
  }
  pc_pool_desc d{};
  d.size = sizeof d;
  d.batch = size[0];
  d.height = size[1];
  d.width = size[2];
  d.channels = size[3];
  d.out_height = result[0];
  d.out_width = result[1];
  d.mode = mode == PC_POOL_AVERAGE_PADDED && p[0] + p[1] == 0 ? PC_POOL_AVERAGE : mode;
  d.kernel_height = k[0];
  d.kernel_width = k[1];
  d.stride_height = s[0];
  d.stride_width = s[1];
  d.dilation_height = l[0];
  d.dilation_width = l[1];
  d.top = p[0];
  d.left = p[1];
  d.x_type = d.y_type = px.type;
  if (px.type == PC_F32 || mode == PC_POOL_MAX) {
    if (!x_qparams.is_none() || !y_qparams.is_none()) return no;
  } else {
    if (x_qparams.is_none() ? !y_qparams.is_none() || d.mode == PC_POOL_AVERAGE_PADDED
                            : !plain_qparams(x_qparams, px.type, &d.x_scale, &d.x_zero_point))
      return no;
    if (!y_qparams.is_none() && !plain_qparams(y_qparams, px.type, &d.y_scale, &d.y_zero_point)) return no;
    if (!x_qparams.is_none() && y_qparams.is_none()) d.y_type = PC_F32;
    if (k[0] * k[1] >= 1 << 23) return no;
  }
  Threads threads;
  if (!plain_threads(num_threads, &threads)) return no;
  const int64_t shape[4] = {size[0], result[0], result[1], size[3]};
  const py::object y = plain_result(out, shape, 4, d.y_type);
  if (!y || overlap(plain(y), px.array, px.type)) return no;
  run_pool(d, px.array->data, py::detail::array_proxy(y.ptr())->data, threads);
  return y;
}

void run_add(const pc_add_desc& d, const void* a, const void* b, void* y, Threads num_threads) {
  const int32_t nth = threads_for(static_cast<double>(d.count) / kValuesPerThread, num_threads);
  check(parallel(nth, d.count < kFewValues, [&](int32_t ith, int32_t of) { return pc_add_run(&d, a, b, y, ith, of); }));
}

void add(const py::array& a, const py::array& b, const py::array& out, const QParams& a_qparams, const QParams& b_qparams, const QParams& y_qparams,
         const Activation& activation, Threads num_threads) {
  pc_add_desc d{};
  d.size = sizeof d;
  d.count = a.size();
  d.type = type_of(a);
  d.y_type = type_of(out);
  if (a_qparams) std::tie(d.a_scale, d.a_zero_point) = *a_qparams;
  if (b_qparams) std::tie(d.b_scale, d.b_zero_point) = *b_qparams;
  if (y_qparams) std::tie(d.y_scale, d.y_zero_point) = *y_qparams;
  std::tie(d.activation, d.low, d.high) = activation;
  run_add(d, a.data(), b.data(), data<void>(out), num_threads);
}

py::object add_fast(py::handle a, py::handle b, py::handle a_qparams, py::handle b_qparams, py::handle y_qparams, py::handle activation,
                    py::handle out, py::handle num_threads) {
  const py::object no = py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const Plain pa = plain(a), pb = plain(b);
  if (!pa.array || !pb.array || pa.type != pb.type || pa.array->nd != pb.array->nd) return no;
  const int dimensions = pa.array->nd;
  if (!std::equal(pa.array->dimensions, pa.array->dimensions + dimensions, pb.array->dimensions)) return no;
  pc_add_desc d{};
  d.size = sizeof d;
  d.count = size_of(pa.array);
  d.type = pa.type;
  d.y_type = y_qparams.is_none() ? PC_F32 : pa.type;
  if (!named_activation(activation, &d.activation, &d.low, &d.high) || d.activation > PC_ACTIVATION_CLAMP) return no;
  if (pa.type == PC_F32) {
    if (!a_qparams.is_none() || !b_qparams.is_none() || !y_qparams.is_none()) return no;
  } else {
    if (!plain_qparams(a_qparams, pa.type, &d.a_scale, &d.a_zero_point) || !plain_qparams(b_qparams, pa.type, &d.b_scale, &d.b_zero_point)) return no;
    if (y_qparams.is_none() ? d.activation != PC_ACTIVATION_NONE : !plain_qparams(y_qparams, pa.type, &d.y_scale, &d.y_zero_point)) return no;
  }
  Threads threads;
  if (!plain_threads(num_threads, &threads)) return no;
  const std::vector<int64_t> shape(pa.array->dimensions, pa.array->dimensions + dimensions);
  const py::object y = plain_result(out, shape.data(), dimensions, d.y_type);
  if (!y || overlap(plain(y), pa.array, pa.type) || overlap(plain(y), pb.array, pb.type)) return no;
  run_add(d, pa.array->data, pb.array->data, py::detail::array_proxy(y.ptr())->data, threads);
  return y;
}

}  // namespace

void bind_pool(py::module_& m) {
  const auto threads = py::arg("num_threads") = py::none();
  m.def("pool", &pool, py::arg("x"), py::arg("out"), py::arg("mode"), py::arg("geometry"), py::arg("x_qparams"), py::arg("y_qparams"), threads);
  m.def("add", &add, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("a_qparams"), py::arg("b_qparams"), py::arg("y_qparams"),
        py::arg("activation"), threads);
  m.def("pool_fast", &pool_fast, "pooling where everything is plainly right; NotImplemented otherwise.");
  m.def("add_fast", &add_fast, "add() where everything is plainly right; NotImplemented otherwise.");
}

}  // namespace pc::python
