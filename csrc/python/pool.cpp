// Pooling and addition of images.
#include <array>

#include "native.h"

namespace pc::python {

namespace {

constexpr double kValuesPerThread = 1 << 17;

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
  const double values = static_cast<double>(out.size()) * static_cast<double>(d.kernel_height * d.kernel_width);
  const int32_t nth = threads_for(values / kValuesPerThread, num_threads);
  check(parallel(nth, values < 4096, [&](int32_t ith, int32_t of) { return pc_pool_run(&d, x.data(), data<void>(out), ith, of); }));
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
  const int32_t nth = threads_for(static_cast<double>(d.count) / kValuesPerThread, num_threads);
  check(parallel(nth, d.count < 4096, [&](int32_t ith, int32_t of) { return pc_add_run(&d, a.data(), b.data(), data<void>(out), ith, of); }));
}

}  // namespace

void bind_pool(py::module_& m) {
  const auto threads = py::arg("num_threads") = py::none();
  m.def("pool", &pool, py::arg("x"), py::arg("out"), py::arg("mode"), py::arg("geometry"), py::arg("x_qparams"), py::arg("y_qparams"), threads);
  m.def("add", &add, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("a_qparams"), py::arg("b_qparams"), py::arg("y_qparams"),
        py::arg("activation"), threads);
}

}  // namespace pc::python
