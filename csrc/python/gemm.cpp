// Dense weights: int8, and plain float32.
#include <cstring>
#include <memory>

#include "native.h"

namespace pc::python {

namespace {

pc_gemm_f32_desc f32_desc(const LinearCall& c, int64_t n, int64_t k) {
  pc_gemm_f32_desc d{};
  d.size = sizeof d;
  d.m = c.m;
  d.n = n;
  d.k = k;
  d.bias = c.bias;
  d.activation = c.activation;
  d.low = c.low;
  d.high = c.high;
  return d;
}

struct Int8Packed : Packed {
  AlignedMemory memory;
  const char* kernel = "";
  double macs = 0;  // for a thread of its own

  explicit Int8Packed(size_t bytes) : memory(bytes) {}

  bool quantizes() const override { return true; }

  pc_gemm_s8_desc desc(int64_t m, pc_type x_type, pc_type y_type) const {
    pc_gemm_s8_desc d{};
    d.size = sizeof d;
    d.m = m;
    d.n = n;
    d.k = k;
    d.x_type = x_type;
    d.y_type = y_type;
    return d;
  }

  pc_gemm_s8_desc desc(const LinearCall& c) const {
    auto d = product_desc<pc_gemm_s8_desc>(c, n, k);
    d.w_zero_points = c.w_zero_points;
    return d;
  }

  double threads_worth(int64_t m) const override { return cost(m, n, k) / macs; }

  pc_status workspace_size(const LinearCall& c, int32_t nth, size_t* bytes) const override {
    const pc_gemm_s8_desc d = desc(c);
    return pc_gemm_s8_workspace_size(&d, memory.get(), memory.size(), nth, bytes);
  }

  pc_status run(const LinearCall& c, void* workspace, size_t bytes, int32_t ith, int32_t nth) const override {
    const pc_gemm_s8_desc d = desc(c);
    return pc_gemm_s8_run(&d, memory.get(), memory.size(), c.x, c.y, workspace, bytes, ith, nth);
  }

  pc_status conv_workspace_size(const LinearCall& c, const pc_conv_desc& image, int64_t groups, int32_t nth, size_t* bytes) const override {
    const pc_conv_desc d = with_call(image, c);
    return pc_conv_s8_workspace_size(&d, groups, memory.get(), memory.size(), nth, bytes);
  }

  pc_status conv_run(const LinearCall& c, const pc_conv_desc& image, int64_t group, int64_t groups, void* workspace, size_t bytes, int32_t ith,
                     int32_t nth) const override {
    const pc_conv_desc d = with_call(image, c);
    return pc_conv_s8_run(&d, group, groups, memory.get(), memory.size(), c.w_zero_points, c.x, c.y, workspace, bytes, ith, nth);
  }

  void product(const pc_gemm_s8_desc& d, const void* x, void* y, Threads num_threads) const {
    const double worth = threads_worth(d.m);
    const int32_t nth = threads_for(worth, num_threads);
    size_t bytes;
    check(pc_gemm_s8_workspace_size(&d, memory.get(), memory.size(), nth, &bytes));
    Workspace workspace(bytes);
    check(parallel(nth, worth < kSmall,
                   [&](int32_t ith, int32_t of) { return pc_gemm_s8_run(&d, memory.get(), memory.size(), x, y, workspace.get(), bytes, ith, of); }));
  }
};

std::unique_ptr<Int8Packed> pack_int8(const py::array& q, const py::array& scale) {
  size_t bytes;
  check(pc_gemm_s8_pack_size(q.shape(0), q.shape(1), &bytes));
  auto packed = std::make_unique<Int8Packed>(bytes);
  packed->n = q.shape(0);
  packed->k = q.shape(1);
  packed->stored = {span_of(q), span_of(scale)};
  {
    const pc_type type = type_of(q);
    py::gil_scoped_release release;
    check(pc_gemm_s8_pack(q.data(), type, packed->n, packed->k, q.strides(0), q.strides(1), data<float>(scale), packed->memory.get(), bytes));
  }
  check(pc_gemm_s8_packed_info(packed->memory.get(), bytes, nullptr, nullptr, &packed->kernel));
  packed->macs = macs_per_thread(std::strchr(packed->kernel, '/') + 1, true);
  return packed;
}

struct F32Packed : Packed {
  AlignedMemory memory;

  explicit F32Packed(size_t bytes) : memory(bytes) {}

  bool quantizes() const override { return false; }
  double threads_worth(int64_t m) const override { return cost(m, n, k) / macs_per_thread(pc_isa_name(pc_isa_active()), false); }

  pc_status workspace_size(const LinearCall& c, int32_t nth, size_t* bytes) const override {
    const pc_gemm_f32_desc d = f32_desc(c, n, k);
    return pc_gemm_f32_workspace_size(&d, nth, bytes);
  }

  pc_status run(const LinearCall& c, void* workspace, size_t bytes, int32_t ith, int32_t nth) const override {
    const pc_gemm_f32_desc d = f32_desc(c, n, k);
    return pc_gemm_f32_run(&d, memory.get(), memory.size(), static_cast<const float*>(c.x), static_cast<float*>(c.y), workspace, bytes, ith, nth);
  }
};

std::unique_ptr<F32Packed> pack_f32(const py::array_t<float, py::array::c_style>& w) {
  size_t bytes;
  check(pc_gemm_f32_pack_size(w.shape(0), w.shape(1), &bytes));
  auto packed = std::make_unique<F32Packed>(bytes);
  packed->n = w.shape(0);
  packed->k = w.shape(1);
  packed->stored = {span_of(w)};
  py::gil_scoped_release release;
  check(pc_gemm_f32_pack(w.data(), packed->n, packed->k, packed->k, 1, packed->memory.get(), bytes));
  return packed;
}

std::unique_ptr<F32Packed> pack_f16(const py::array& w) {
  if (w.dtype().kind() != 'f' || w.itemsize() != 2 || w.ndim() != 2) throw py::type_error("w is no float16 matrix");
  size_t bytes;
  check(pc_gemm_f16_pack_size(w.shape(0), w.shape(1), &bytes));
  auto packed = std::make_unique<F32Packed>(bytes);
  packed->n = w.shape(0);
  packed->k = w.shape(1);
  packed->stored = {span_of(w)};
  const auto* values = data<uint16_t>(w);
  py::gil_scoped_release release;
  check(pc_gemm_f16_pack(values, packed->n, packed->k, packed->k, 1, packed->memory.get(), bytes));
  return packed;
}

void gemm_int8(const py::array& x, const Int8Packed& w, const std::optional<py::array>& x_zero_point, const std::optional<py::array>& w_zero_point,
               const py::array& out, Threads num_threads) {
  pc_gemm_s8_desc d = w.desc(x.shape(0), type_of(x), PC_S32);
  d.x_zero_points = data<int32_t>(x_zero_point);
  d.w_zero_points = data<int32_t>(w_zero_point);
  w.product(d, x.data(), data<void>(out), num_threads);
}

py::object matmul_integer_fast(py::handle a, py::handle weight, py::handle a_zero_point, py::handle b_zero_point) {
  const py::object no = py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const Plain ap = plain(a);
  if (!ap.array || ap.type == PC_F32 || ap.array->nd < 1 || !b_zero_point.is_none() || !py::isinstance<Int8Packed>(weight)) return no;
  const Int8Packed& packed = *py::cast<const Int8Packed*>(weight);
  const int nd = ap.array->nd;
  if (packed.k == 0 || ap.array->dimensions[nd - 1] != packed.k) return no;
  pc_gemm_s8_desc d = packed.desc(size_of(ap.array) / packed.k, ap.type, PC_S32);
  if (!a_zero_point.is_none() && !plain_zero_point(a_zero_point.ptr(), ap.type, &d.x_zero_point)) return no;
  std::vector<py::ssize_t> shape(ap.array->dimensions, ap.array->dimensions + nd);
  shape.back() = packed.n;
  py::array_t<int32_t> result(shape);
  packed.product(d, ap.array->data, result.mutable_data(), std::nullopt);
  return result;
}

}  // namespace

void linear_f32(const LinearCall& c, const float* w, int64_t n, int64_t k, int64_t ldn, int64_t ldk) {
  pc_gemm_f32_desc d = f32_desc(c, n, k);
  d.ldn = ldn;
  d.ldk = ldk;
  const double worth = cost(d.m, d.n, d.k) / macs_per_thread(pc_isa_name(pc_isa_active()), false);
  const int32_t nth = threads_for(worth, c.threads);
  size_t bytes;
  check(pc_gemm_f32_workspace_size(&d, nth, &bytes));
  Workspace workspace(bytes);
  const auto* x = static_cast<const float*>(c.x);
  auto* y = static_cast<float*>(c.y);
  check(parallel(nth, worth < kSmall, [&](int32_t ith, int32_t of) { return pc_gemm_f32_run(&d, w, 0, x, y, workspace.get(), bytes, ith, of); }));
}

void bind_gemm(py::module_& m) {
  py::class_<Int8Packed, Packed>(m, "Int8Packed", "An int8 weight, packed for the instruction set that was in use.")
      .def_property_readonly("nbytes", [](const Int8Packed& p) { return p.memory.size(); })
      .def_readonly("kernel", &Int8Packed::kernel)
      .def(
          "tobytes", [](const Int8Packed& p) { return py::bytes(static_cast<const char*>(p.memory.get()), p.memory.size()); },
          "The packed form, as pc_gemm_s8_run of the C interface takes it.");
  m.def("pack_int8", &pack_int8, py::arg("q"), py::arg("scale"));
  py::class_<F32Packed, Packed>(m, "F32Packed", "A float32 or float16 weight, packed for the instruction set that was in use.");
  m.def("pack_f32", &pack_f32, py::arg("w"));
  m.def("pack_f16", &pack_f16, py::arg("w"));
  m.def("gemm_int8", &gemm_int8, py::arg("x"), py::arg("w"), py::arg("x_zero_point"), py::arg("w_zero_point"), py::arg("out"),
        py::arg("num_threads") = py::none());
  m.def("matmul_integer_fast", &matmul_integer_fast,
        "matmul_integer() by a packed weight where everything is plainly right; NotImplemented otherwise.");
}

}  // namespace pc::python
