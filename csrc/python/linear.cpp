// linear(): by checked arguments, and the fast path, which takes only what is plainly right and leaves all else to pycompress/ops.py.
#include <algorithm>
#include <cmath>
#include <limits>

#include "native.h"

namespace pc::python {

const py::detail::PyArray_Proxy* plain_float32(py::handle h) {
  const Plain p = plain(h);
  return p.type == PC_F32 ? p.array : nullptr;
}

bool overlap(const Plain& a, const py::detail::PyArray_Proxy* b, pc_type b_type) {
  const auto bytes = [](const py::detail::PyArray_Proxy* p, pc_type type) { return static_cast<size_t>(size_of(p)) * (type == PC_F32 ? 4 : 1); };
  return pc::overlap(a.array->data, bytes(a.array, a.type), b->data, bytes(b, b_type));
}

// A QParams, or a tuple (float, int), that fits `type`; false for anything else.
bool plain_qparams(py::handle h, pc_type type, float* scale, int32_t* zero_point) {
  if (!PyTuple_Check(h.ptr()) || PyTuple_GET_SIZE(h.ptr()) != 2) return false;
  PyObject* s = PyTuple_GET_ITEM(h.ptr(), 0);
  if (!PyFloat_CheckExact(s) || !plain_zero_point(PyTuple_GET_ITEM(h.ptr(), 1), type, zero_point)) return false;
  const double exact = PyFloat_AS_DOUBLE(s);
  if (!(exact > 0 && exact <= static_cast<double>(std::numeric_limits<float>::max()))) return false;
  *scale = static_cast<float>(exact);
  return *scale > 0;
}

// None, or one of the names; false for anything else.
bool named_activation(py::handle h, pc_activation* activation, float* low, float* high) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  *activation = PC_ACTIVATION_NONE;
  *low = 0.0f;
  *high = infinity;
  if (h.is_none()) return true;
  if (!PyUnicode_CheckExact(h.ptr())) return false;
  const auto is = [h](const char* name) { return PyUnicode_CompareWithASCIIString(h.ptr(), name) == 0; };
  if (is("relu")) {
    *activation = PC_ACTIVATION_CLAMP;
  } else if (is("relu6")) {
    *activation = PC_ACTIVATION_CLAMP;
    *high = 6.0f;
  } else if (is("hardswish")) {
    *activation = PC_ACTIVATION_HARDSWISH;
  } else if (is("silu")) {
    *activation = PC_ACTIVATION_SILU;
  } else if (is("gelu")) {
    *activation = PC_ACTIVATION_GELU;
  } else {
    return false;
  }
  return true;
}

namespace {

LinearCall linear_call(const py::array& x, const std::optional<py::array>& bias, const Activation& activation, const py::array& out,
                       Threads threads) {
  LinearCall c;
  c.m = x.shape(0);
  c.x = x.data();
  c.y = data<void>(out);
  c.x_type = type_of(x);
  c.y_type = type_of(out);
  c.bias = data<float>(bias);
  std::tie(c.activation, c.low, c.high) = activation;
  c.threads = threads;
  return c;
}

void linear(const py::array& x, const Packed& w, const std::optional<py::array>& bias, const Activation& activation, const QParams& x_qparams,
            const QParams& y_qparams, const py::array& out, Threads num_threads, const std::optional<py::array>& w_zero_point) {
  LinearCall c = linear_call(x, bias, activation, out, num_threads);
  if (x_qparams) std::tie(c.x_scale, c.x_zero_point) = *x_qparams;
  if (y_qparams) std::tie(c.y_scale, c.y_zero_point) = *y_qparams;
  c.w_zero_points = data<int32_t>(w_zero_point);
  w.linear(c);
}

void linear_plain(const py::array& x, py::array w, const std::optional<py::array>& bias, const Activation& activation, const py::array& out,
                  Threads num_threads) {
  const auto usable = [](py::ssize_t stride) { return stride > 0 && stride % 4 == 0; };
  if (w.size() > 0 && !(usable(w.strides(0)) && usable(w.strides(1)))) w = py::array_t<float, py::array::c_style>::ensure(w.attr("copy")());
  const bool empty = w.size() == 0;
  linear_f32(linear_call(x, bias, activation, out, num_threads), data<float>(w), w.shape(0), w.shape(1), empty ? 0 : w.strides(0) / 4,
             empty ? 0 : w.strides(1) / 4);
}

py::object linear_fast(py::handle x, py::handle weight, py::handle bias, py::handle activation, py::handle x_qparams, py::handle y_qparams,
                       py::handle out, py::handle num_threads) {
  const py::object no = py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const Plain xp = plain(x);
  const auto* xa = xp.array;
  if (!xa || xa->nd < 1) return no;
  const auto* wa = plain_float32(weight);
  const Packed* packed = nullptr;
  if (wa) {
    if (wa->nd != 2) return no;
  } else {
    if (!py::isinstance<Packed>(weight)) return no;
    packed = py::cast<const Packed*>(weight);
  }
  const int64_t n = wa ? wa->dimensions[0] : packed->n, k = wa ? wa->dimensions[1] : packed->k;
  if (k == 0 || xa->dimensions[xa->nd - 1] != k) return no;
  LinearCall call;
  call.m = size_of(xa) / k;
  call.x = xa->data;
  call.x_type = xp.type;
  const bool quantizes = packed && packed->quantizes();
  if (quantizes ? xp.type != PC_F32 && x_qparams.is_none() : xp.type != PC_F32 || !x_qparams.is_none()) return no;
  if (!x_qparams.is_none() && !plain_qparams(x_qparams, xp.type, &call.x_scale, &call.x_zero_point)) return no;
  if (!x_qparams.is_none() && xp.type == PC_F32 && !std::isfinite(1.0f / call.x_scale)) return no;
  if (!y_qparams.is_none() && (xp.type == PC_F32 || !plain_qparams(y_qparams, xp.type, &call.y_scale, &call.y_zero_point))) return no;
  const pc_type y_type = call.y_type = y_qparams.is_none() ? PC_F32 : xp.type;

  const py::detail::PyArray_Proxy* ba = nullptr;
  if (!bias.is_none()) {
    ba = plain_float32(bias);
    if (!ba || ba->nd != 1 || ba->dimensions[0] != n) return no;
    call.bias = reinterpret_cast<const float*>(ba->data);
  }
  if (!named_activation(activation, &call.activation, &call.low, &call.high)) return no;
  if (!plain_threads(num_threads, &call.threads)) return no;
  constexpr int kDimensions = 8;  // more take the long way
  int64_t shape[kDimensions];
  if (xa->nd > kDimensions) return no;
  std::copy(xa->dimensions, xa->dimensions + xa->nd, shape);
  shape[xa->nd - 1] = n;
  const py::object result = plain_result(out, shape, xa->nd, y_type);
  if (!result) return no;
  if (!out.is_none()) {
    const Plain op = plain(out);
    const size_t out_bytes = static_cast<size_t>(size_of(op.array)) * (op.type == PC_F32 ? 4 : 1);
    if (packed)
      for (const Span& span : packed->stored)
        if (pc::overlap(op.array->data, out_bytes, span.begin, span.bytes)) return no;
    if (overlap(op, xa, xp.type) || (wa && overlap(op, wa, PC_F32)) || (ba && overlap(op, ba, PC_F32))) return no;
  }
  call.y = py::detail::array_proxy(result.ptr())->data;
  if (packed) {
    packed->linear(call);
  } else {
    linear_f32(call, reinterpret_cast<const float*>(wa->data), n, k, 0, 0);
  }
  return result;
}

}  // namespace

void bind_linear(py::module_& m) {
  py::class_<Packed>(m, "Packed", "A weight, packed for the instruction set that was in use.")
      .def_readonly("n", &Packed::n)
      .def_readonly("k", &Packed::k);
  const auto threads = py::arg("num_threads") = py::none();
  m.def("linear", &linear, py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("activation"), py::arg("x_qparams"), py::arg("y_qparams"),
        py::arg("out"), threads, py::arg("w_zero_point") = py::none());
  m.def("linear_f32", &linear_plain, py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("activation"), py::arg("out"), threads);
  m.def("linear_fast", &linear_fast, "linear() where everything is plainly right; NotImplemented otherwise.");
}

}  // namespace pc::python
