#include <vector>

#include "native.h"

namespace pc::python {

namespace {

constexpr double kValuesPerThread = 1 << 17;

pc_quant_desc quant_desc(const py::array& x, const py::array& q, const py::array& scale, const py::array& zero_point) {
  pc_quant_desc d{};
  d.size = sizeof d;
  d.outer = x.shape(0);
  d.channels = x.shape(1);
  d.inner = x.shape(2);
  d.q_type = type_of(q);
  d.scale = data<float>(scale);
  d.zero_point = data<int32_t>(zero_point);
  return d;
}

void quantize_linear(const py::array& x, const py::array& scale, const py::array& zero_point, const py::array& out, Threads num_threads) {
  const pc_quant_desc d = quant_desc(x, out, scale, zero_point);
  const int32_t nth = threads_for(static_cast<double>(x.size()) / kValuesPerThread, num_threads);
  check(parallel(nth, x.size() < 4096, [&](int32_t i, int32_t n) { return pc_quantize_linear_run(&d, data<float>(x), data<void>(out), i, n); }));
}

void dequantize_linear(const py::array& x, const py::array& scale, const py::array& zero_point, const py::array& out, Threads num_threads) {
  const pc_quant_desc d = quant_desc(x, x, scale, zero_point);
  const int32_t nth = threads_for(static_cast<double>(x.size()) / kValuesPerThread, num_threads);
  check(parallel(nth, x.size() < 4096, [&](int32_t i, int32_t n) { return pc_dequantize_linear_run(&d, data<void>(x), data<float>(out), i, n); }));
}

std::pair<float, int32_t> dynamic_quantize_linear(const py::array& x, const py::array& out, Threads num_threads) {
  const int64_t count = x.size();
  const int32_t nth = threads_for(static_cast<double>(count) / kValuesPerThread, num_threads);
  const bool small = count < 4096;
  std::vector<float> ranges(2 * static_cast<size_t>(nth));
  check(parallel(nth, small, [&](int32_t i, int32_t n) { return pc_range_run(data<float>(x), count, ranges.data(), i, n); }));
  float scale;
  int32_t zero_point;
  check(pc_dynamic_qparams(ranges.data(), nth, &scale, &zero_point));
  pc_quant_desc d{};
  d.size = sizeof d;
  d.outer = d.channels = 1;
  d.inner = count;
  d.q_type = PC_U8;
  d.scale = &scale;
  d.zero_point = &zero_point;
  check(parallel(nth, small, [&](int32_t i, int32_t n) { return pc_quantize_linear_run(&d, data<float>(x), data<void>(out), i, n); }));
  return {scale, zero_point};
}

void quantize_rows(const py::array& x, const py::array& out, const py::array& scale, const py::array& zero_point, Threads num_threads) {
  const int32_t nth = threads_for(static_cast<double>(x.size()) / kValuesPerThread, num_threads);
  check(parallel(nth, x.size() < 4096, [&](int32_t i, int32_t n) {
    return pc_quantize_rows_run(data<float>(x), x.shape(0), x.shape(1), 0, data<uint8_t>(out), 0, data<float>(scale), data<int32_t>(zero_point), i,
                                n);
  }));
}

}  // namespace

void bind_quant(py::module_& m) {
  const auto threads = py::arg("num_threads") = py::none();
  m.def("quantize_linear", &quantize_linear, py::arg("x"), py::arg("scale"), py::arg("zero_point"), py::arg("out"), threads);
  m.def("dequantize_linear", &dequantize_linear, py::arg("x"), py::arg("scale"), py::arg("zero_point"), py::arg("out"), threads);
  m.def("dynamic_quantize_linear", &dynamic_quantize_linear, py::arg("x"), py::arg("out"), threads);
  m.def("quantize_rows", &quantize_rows, py::arg("x"), py::arg("out"), py::arg("scale"), py::arg("zero_point"), threads);
}

}  // namespace pc::python
