// pycompress._native: the fast path from Python. A thin reading of NumPy arrays over the C interface; arguments have been checked by
// pycompress/ops.py, except in linear_fast, which takes only what is plainly right and leaves all else to ops.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core/cpu.h"
#include "core/memory.h"
#include "pycompress.h"

namespace py = pybind11;

namespace {

using QParams = std::optional<std::pair<float, int32_t>>;
using Activation = std::tuple<int32_t, float, float>;
using Threads = std::optional<int32_t>;

void check(pc_status status) {
  if (status == PC_OK) return;
  const char* message = pc_last_error();
  switch (status) {
    case PC_ERROR_TYPE:
      throw py::type_error(message);
    case PC_ERROR_OVERFLOW:
      PyErr_SetString(PyExc_OverflowError, message);
      throw py::error_already_set();
    default:
      throw py::value_error(message);
  }
}

class AlignedMemory {
 public:
  explicit AlignedMemory(size_t bytes) : pointer_(pc::allocate(bytes)), bytes_(bytes) {
    if (!pointer_) throw std::bad_alloc();
  }
  ~AlignedMemory() { pc::deallocate(pointer_); }
  AlignedMemory(const AlignedMemory&) = delete;
  AlignedMemory& operator=(const AlignedMemory&) = delete;
  void* get() const { return pointer_; }
  size_t size() const { return bytes_; }

 private:
  void* pointer_;
  size_t bytes_;
};

// A thread keeps its workspace from call to call, unless it is large.
class Workspace {
 public:
  explicit Workspace(size_t bytes) {
    constexpr size_t kept = size_t{4} << 20;
    thread_local std::optional<AlignedMemory> mine;
    if (bytes > kept) {
      memory_ = own_.emplace(bytes).get();
    } else {
      if (!mine || mine->size() < bytes) mine.emplace(bytes);
      memory_ = mine->get();
    }
  }
  void* get() const { return memory_; }

 private:
  std::optional<AlignedMemory> own_;
  void* memory_;
};

// An int8 weight in the form of the kernel that will read it.
struct Int8Packed {
  AlignedMemory memory;
  int64_t n, k;
  const char* kernel;
  double macs_per_thread;
  // What it was packed from, which its owner keeps: no result may go there.
  pc::Span q, scale;
};

// Handing work to a sleeping thread takes up to 50 us: that many multiply-accumulates, at the speed of the kernel's instruction set, have to be in
// it for a thread of its own.
double macs_per_thread(const char* isa, bool int8) {
  const auto is = [isa](const char* name) { return std::strcmp(isa, name) == 0; };
  const double millions = is("avx512vnni") ? (int8 ? 24 : 6) : is("avxvnni") ? (int8 ? 12 : 3) : is("avx2") ? (int8 ? 8 : 3) : 0.3;
  return millions * 1e6;
}

// The cost of a product in multiply-accumulates: reading the weight costs as much as 4 rows of x.
double cost(int64_t m, int64_t n, int64_t k) { return static_cast<double>(n) * static_cast<double>(k) * static_cast<double>(m + 4); }

constexpr double kValuesPerThread = 1 << 17;

int32_t threads_for(double work, double per_thread, Threads wanted) {
  const int32_t most = wanted ? *wanted : pc_get_num_threads();
  return static_cast<int32_t>(std::clamp(work / per_thread, 1.0, static_cast<double>(std::max(most, 1))));
}

// Runs body(ith, nth) on the pool without the GIL. Small work keeps it: giving it back costs more than it lasts.
template <class Body> pc_status parallel(int32_t nth, bool small, Body body) {
  auto call = [](void* context, int32_t ith, int32_t n) { return (*static_cast<Body*>(context))(ith, n); };
  if (small) return body(0, 1);
  py::gil_scoped_release release;
  return pc_parallel(call, &body, nth);
}

pc_type type_of(const py::array& a) {
  const char kind = a.dtype().kind();
  if (kind == 'f') return PC_F32;
  return a.itemsize() == 4 ? PC_S32 : kind == 'u' ? PC_U8 : PC_S8;
}

template <class T> T* data(const py::array& a) { return static_cast<T*>(const_cast<void*>(a.data())); }
template <class T> T* data(const std::optional<py::array>& a) { return a ? data<T>(*a) : nullptr; }

void set_activation(const Activation& a, int32_t* activation, float* low, float* high) { std::tie(*activation, *low, *high) = a; }

void run_s8(const pc_gemm_s8_desc& d, const Int8Packed& w, const void* x, void* y, Threads num_threads) {
  const double work = cost(d.m, d.n, d.k);
  const int32_t nth = threads_for(work, w.macs_per_thread, num_threads);
  size_t bytes;
  check(pc_gemm_s8_workspace_size(&d, w.memory.get(), w.memory.size(), nth, &bytes));
  Workspace workspace(bytes);
  check(parallel(nth, work < 1e5,
                 [&](int32_t ith, int32_t n) { return pc_gemm_s8_run(&d, w.memory.get(), w.memory.size(), x, y, workspace.get(), bytes, ith, n); }));
}

void run_f32(const pc_gemm_f32_desc& d, const float* w, const float* x, float* y, Threads num_threads) {
  const double work = cost(d.m, d.n, d.k);
  const int32_t nth = threads_for(work, macs_per_thread(pc_isa_name(pc_isa_active()), false), num_threads);
  size_t bytes;
  check(pc_gemm_f32_workspace_size(&d, nth, &bytes));
  Workspace workspace(bytes);
  check(parallel(nth, work < 1e5, [&](int32_t ith, int32_t n) { return pc_gemm_f32_run(&d, w, 0, x, y, workspace.get(), bytes, ith, n); }));
}

// ---- quant

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
  const int32_t nth = threads_for(static_cast<double>(x.size()), kValuesPerThread, num_threads);
  check(parallel(nth, x.size() < 4096, [&](int32_t i, int32_t n) { return pc_quantize_linear_run(&d, data<float>(x), data<void>(out), i, n); }));
}

void dequantize_linear(const py::array& x, const py::array& scale, const py::array& zero_point, const py::array& out, Threads num_threads) {
  const pc_quant_desc d = quant_desc(x, x, scale, zero_point);
  const int32_t nth = threads_for(static_cast<double>(x.size()), kValuesPerThread, num_threads);
  check(parallel(nth, x.size() < 4096, [&](int32_t i, int32_t n) { return pc_dequantize_linear_run(&d, data<void>(x), data<float>(out), i, n); }));
}

std::pair<float, int32_t> dynamic_quantize_linear(const py::array& x, const py::array& out, Threads num_threads) {
  const int64_t count = x.size();
  const int32_t nth = threads_for(static_cast<double>(count), kValuesPerThread, num_threads);
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
  const int32_t nth = threads_for(static_cast<double>(x.size()), kValuesPerThread, num_threads);
  check(parallel(nth, x.size() < 4096, [&](int32_t i, int32_t n) {
    return pc_quantize_rows_run(data<float>(x), x.shape(0), x.shape(1), 0, data<uint8_t>(out), 0, data<float>(scale), data<int32_t>(zero_point), i,
                                n);
  }));
}

// ---- gemm

std::unique_ptr<Int8Packed> pack_int8(const py::array& q, const py::array& scale) {
  size_t bytes;
  check(pc_gemm_s8_pack_size(q.shape(0), q.shape(1), &bytes));
  std::unique_ptr<Int8Packed> packed(new Int8Packed{AlignedMemory(bytes),
                                                    q.shape(0),
                                                    q.shape(1),
                                                    "",
                                                    0,
                                                    pc::span_of(q.data(), q.shape(0), q.shape(1), q.strides(0), q.strides(1), 1),
                                                    {scale.data(), static_cast<size_t>(scale.nbytes())}});
  {
    const pc_type type = type_of(q);
    py::gil_scoped_release release;
    check(pc_gemm_s8_pack(q.data(), type, packed->n, packed->k, q.strides(0), q.strides(1), data<float>(scale), packed->memory.get(), bytes));
  }
  check(pc_gemm_s8_packed_info(packed->memory.get(), bytes, nullptr, nullptr, &packed->kernel));
  packed->macs_per_thread = macs_per_thread(std::strchr(packed->kernel, '/') + 1, true);
  return packed;
}

pc_gemm_s8_desc s8_desc(int64_t m, const Int8Packed& w, pc_type x_type, pc_type y_type) {
  pc_gemm_s8_desc d{};
  d.size = sizeof d;
  d.m = m;
  d.n = w.n;
  d.k = w.k;
  d.x_type = x_type;
  d.y_type = y_type;
  return d;
}

void gemm_int8(const py::array& x, const Int8Packed& w, const std::optional<py::array>& x_zero_point, const std::optional<py::array>& w_zero_point,
               const py::array& out, Threads num_threads) {
  pc_gemm_s8_desc d = s8_desc(x.shape(0), w, type_of(x), PC_S32);
  d.x_zero_points = data<int32_t>(x_zero_point);
  d.w_zero_points = data<int32_t>(w_zero_point);
  run_s8(d, w, x.data(), data<void>(out), num_threads);
}

void linear_int8(const py::array& x, const Int8Packed& w, const std::optional<py::array>& bias, const Activation& activation,
                 const QParams& x_qparams, const QParams& y_qparams, const py::array& out, Threads num_threads,
                 const std::optional<py::array>& w_zero_point) {
  pc_gemm_s8_desc d = s8_desc(x.shape(0), w, type_of(x), type_of(out));
  d.w_zero_points = data<int32_t>(w_zero_point);
  if (x_qparams) std::tie(d.x_scale, d.x_zero_point) = *x_qparams;
  if (y_qparams) std::tie(d.y_scale, d.y_zero_point) = *y_qparams;
  d.bias = data<float>(bias);
  set_activation(activation, &d.activation, &d.low, &d.high);
  run_s8(d, w, x.data(), data<void>(out), num_threads);
}

void linear_f32(const py::array& x, py::array w, const std::optional<py::array>& bias, const Activation& activation, const py::array& out,
                Threads num_threads) {
  const auto usable = [](py::ssize_t stride) { return stride > 0 && stride % 4 == 0; };
  if (w.size() > 0 && !(usable(w.strides(0)) && usable(w.strides(1)))) w = py::array_t<float, py::array::c_style>::ensure(w.attr("copy")());
  pc_gemm_f32_desc d{};
  d.size = sizeof d;
  d.m = x.shape(0);
  d.n = w.shape(0);
  d.k = w.shape(1);
  if (w.size() > 0) {
    d.ldn = w.strides(0) / 4;
    d.ldk = w.strides(1) / 4;
  }
  d.bias = data<float>(bias);
  set_activation(activation, &d.activation, &d.low, &d.high);
  run_f32(d, data<float>(w), data<float>(x), data<float>(out), num_threads);
}

// ---- the fast path of linear

struct Plain {
  const py::detail::PyArray_Proxy* array = nullptr;  // nullptr when it is not plain
  pc_type type = 0;
};

// An exact ndarray of native float32, uint8 or int8, C-contiguous and aligned.
Plain plain(py::handle h) {
  using namespace py::detail;
  static const auto& api = npy_api::get();
  constexpr int wanted = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_;
  if (reinterpret_cast<PyObject*>(Py_TYPE(h.ptr())) != reinterpret_cast<PyObject*>(api.PyArray_Type_)) return {};
  const auto* a = array_proxy(h.ptr());
  const auto* descr = array_descriptor_proxy(a->descr);
  if ((a->flags & wanted) != wanted || descr->byteorder == '>' || descr->byteorder == '<') return {};
  switch (descr->type_num) {
    case npy_api::NPY_FLOAT_:
      return {a, PC_F32};
    case npy_api::NPY_UBYTE_:
      return {a, PC_U8};
    case npy_api::NPY_BYTE_:
      return {a, PC_S8};
    default:
      return {};
  }
}

const py::detail::PyArray_Proxy* plain_float32(py::handle h) {
  const Plain p = plain(h);
  return p.type == PC_F32 ? p.array : nullptr;
}

int64_t size_of(const py::detail::PyArray_Proxy* a) {
  int64_t size = 1;
  for (int i = 0; i < a->nd; ++i) size *= a->dimensions[i];
  return size;
}

bool overlap(const Plain& a, const py::detail::PyArray_Proxy* b, pc_type b_type) {
  const auto bytes = [](const py::detail::PyArray_Proxy* p, pc_type type) { return static_cast<size_t>(size_of(p)) * (type == PC_F32 ? 4 : 1); };
  return pc::overlap(a.array->data, bytes(a.array, a.type), b->data, bytes(b, b_type));
}

// An int that fits `type`; false for anything else.
bool plain_zero_point(PyObject* h, pc_type type, int32_t* zero_point) {
  if (!PyLong_CheckExact(h)) return false;
  int overflow;
  const long value = PyLong_AsLongAndOverflow(h, &overflow);
  *zero_point = static_cast<int32_t>(value);
  return overflow == 0 && value >= (type == PC_S8 ? -128 : 0) && value <= (type == PC_S8 ? 127 : 255);
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

py::object linear_fast(py::handle x, py::handle weight, py::handle bias, py::handle activation, py::handle x_qparams, py::handle y_qparams,
                       py::handle out, py::handle num_threads) {
  const py::object no = py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const Plain xp = plain(x);
  const auto* xa = xp.array;
  if (!xa || xa->nd < 1) return no;
  const auto* wa = plain_float32(weight);
  const Int8Packed* packed = nullptr;
  if (wa) {
    if (wa->nd != 2) return no;
  } else {
    if (!py::isinstance<Int8Packed>(weight)) return no;
    packed = py::cast<const Int8Packed*>(weight);
  }
  const int64_t n = wa ? wa->dimensions[0] : packed->n, k = wa ? wa->dimensions[1] : packed->k;
  if (k == 0 || xa->dimensions[xa->nd - 1] != k) return no;
  const int64_t m = size_of(xa) / k;
  float x_scale = 0, y_scale = 0;
  int32_t x_zero_point = 0, y_zero_point = 0;
  if (wa ? xp.type != PC_F32 || !x_qparams.is_none() : xp.type != PC_F32 && x_qparams.is_none()) return no;
  if (!x_qparams.is_none() && !plain_qparams(x_qparams, xp.type, &x_scale, &x_zero_point)) return no;
  if (!x_qparams.is_none() && xp.type == PC_F32 && !std::isfinite(1.0f / x_scale)) return no;
  if (!y_qparams.is_none() && (xp.type == PC_F32 || !plain_qparams(y_qparams, xp.type, &y_scale, &y_zero_point))) return no;
  const pc_type y_type = y_qparams.is_none() ? PC_F32 : xp.type;

  const float* bias_data = nullptr;
  const py::detail::PyArray_Proxy* ba = nullptr;
  if (!bias.is_none()) {
    ba = plain_float32(bias);
    if (!ba || ba->nd != 1 || ba->dimensions[0] != n) return no;
    bias_data = reinterpret_cast<const float*>(ba->data);
  }
  pc_activation code;
  float low, high;
  if (!named_activation(activation, &code, &low, &high)) return no;
  Threads threads;
  if (!num_threads.is_none()) {
    if (!PyLong_CheckExact(num_threads.ptr())) return no;
    const long value = PyLong_AsLong(num_threads.ptr());
    if (value < 1 || value > 4096) {
      PyErr_Clear();
      return no;
    }
    threads = static_cast<int32_t>(value);
  }

  py::object result;
  if (out.is_none()) {
    std::vector<py::ssize_t> shape(xa->dimensions, xa->dimensions + xa->nd);
    shape.back() = n;
    result = y_type == PC_F32  ? py::array(py::array_t<float>(shape))
             : y_type == PC_U8 ? py::array(py::array_t<uint8_t>(shape))
                               : py::array_t<int8_t>(shape);
  } else {
    const Plain op = plain(out);
    const auto* oa = op.array;
    if (!oa || op.type != y_type || !(oa->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) || oa->nd != xa->nd || oa->dimensions[oa->nd - 1] != n)
      return no;
    for (int i = 0; i + 1 < xa->nd; ++i)
      if (oa->dimensions[i] != xa->dimensions[i]) return no;
    const size_t out_bytes = static_cast<size_t>(size_of(oa)) * (op.type == PC_F32 ? 4 : 1);
    if (packed)
      for (const pc::Span* span : {&packed->q, &packed->scale})
        if (pc::overlap(oa->data, out_bytes, span->begin, span->bytes)) return no;
    if (overlap(op, xa, xp.type) || (wa && overlap(op, wa, PC_F32)) || (ba && overlap(op, ba, PC_F32))) return no;
    result = py::reinterpret_borrow<py::object>(out);
  }
  void* y = py::detail::array_proxy(result.ptr())->data;
  if (wa) {
    pc_gemm_f32_desc d{};
    d.size = sizeof d;
    d.m = m;
    d.n = n;
    d.k = k;
    d.bias = bias_data;
    d.activation = code;
    d.low = low;
    d.high = high;
    run_f32(d, reinterpret_cast<const float*>(wa->data), reinterpret_cast<const float*>(xa->data), static_cast<float*>(y), threads);
  } else {
    pc_gemm_s8_desc d = s8_desc(m, *packed, xp.type, y_type);
    d.x_scale = x_scale;
    d.x_zero_point = x_zero_point;
    d.y_scale = y_scale;
    d.y_zero_point = y_zero_point;
    d.bias = bias_data;
    d.activation = code;
    d.low = low;
    d.high = high;
    run_s8(d, *packed, xa->data, y, threads);
  }
  return result;
}

py::object matmul_integer_fast(py::handle a, py::handle weight, py::handle a_zero_point, py::handle b_zero_point) {
  const py::object no = py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const Plain ap = plain(a);
  if (!ap.array || ap.type == PC_F32 || ap.array->nd < 1 || !b_zero_point.is_none() || !py::isinstance<Int8Packed>(weight)) return no;
  const Int8Packed& packed = *py::cast<const Int8Packed*>(weight);
  const int nd = ap.array->nd;
  if (packed.k == 0 || ap.array->dimensions[nd - 1] != packed.k) return no;
  pc_gemm_s8_desc d = s8_desc(size_of(ap.array) / packed.k, packed, ap.type, PC_S32);
  if (!a_zero_point.is_none() && !plain_zero_point(a_zero_point.ptr(), ap.type, &d.x_zero_point)) return no;
  std::vector<py::ssize_t> shape(ap.array->dimensions, ap.array->dimensions + nd);
  shape.back() = packed.n;
  py::array_t<int32_t> result(shape);
  run_s8(d, packed, ap.array->data, result.mutable_data(), std::nullopt);
  return result;
}

// ---- the machine

py::list isas() {
  py::list list;
  for (int32_t i = 0; i < pc_isa_count(); ++i) list.append(py::dict(py::arg("name") = pc_isa_name(i), py::arg("usable") = pc_isa_usable(i) != 0));
  return list;
}

pc_cpu_info cpu_info() {
  pc_cpu_info info{};
  info.size = sizeof info;
  check(pc_get_cpu_info(&info));
  return info;
}

double measure_peak(const std::string& type) {
  if (type != "int8" && type != "float32") throw py::value_error("type is '" + type + "', wanted 'int8' or 'float32'");
  double macs;
  py::gil_scoped_release release;
  const pc_status status = pc_measure_peak(type == "int8" ? PC_S8 : PC_F32, &macs);
  py::gil_scoped_acquire acquire;
  check(status);
  return macs;
}

const char* compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#elif defined(_MSC_VER)
  return "MSVC";
#else
  return "unknown";
#endif
}

}  // namespace

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
  // PYCOMPRESS_ISA names what can't run here: better now than at the first call.
  if (pc_isa_active() < 0) throw py::import_error(std::string("PYCOMPRESS_ISA: ") + pc_last_error());

  m.doc() = "The compiled kernels. Use the functions of pycompress, which check their arguments.";

  py::class_<Int8Packed>(m, "Int8Packed", "An int8 weight, packed for the instruction set that was in use.")
      .def_readonly("n", &Int8Packed::n)
      .def_readonly("k", &Int8Packed::k)
      .def_property_readonly("nbytes", [](const Int8Packed& p) { return p.memory.size(); })
      .def_readonly("kernel", &Int8Packed::kernel)
      .def(
          "tobytes", [](const Int8Packed& p) { return py::bytes(static_cast<const char*>(p.memory.get()), p.memory.size()); },
          "The packed form, as pc_gemm_s8_run of the C interface takes it.");

  const auto threads = py::arg("num_threads") = py::none();
  m.def("quantize_linear", &quantize_linear, py::arg("x"), py::arg("scale"), py::arg("zero_point"), py::arg("out"), threads);
  m.def("dequantize_linear", &dequantize_linear, py::arg("x"), py::arg("scale"), py::arg("zero_point"), py::arg("out"), threads);
  m.def("dynamic_quantize_linear", &dynamic_quantize_linear, py::arg("x"), py::arg("out"), threads);
  m.def("quantize_rows", &quantize_rows, py::arg("x"), py::arg("out"), py::arg("scale"), py::arg("zero_point"), threads);
  m.def("pack_int8", &pack_int8, py::arg("q"), py::arg("scale"));
  m.def("gemm_int8", &gemm_int8, py::arg("x"), py::arg("w"), py::arg("x_zero_point"), py::arg("w_zero_point"), py::arg("out"), threads);
  m.def("linear_int8", &linear_int8, py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("activation"), py::arg("x_qparams"), py::arg("y_qparams"),
        py::arg("out"), threads, py::arg("w_zero_point") = py::none());
  m.def("linear_f32", &linear_f32, py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("activation"), py::arg("out"), threads);
  m.def("linear_fast", &linear_fast, "linear() where everything is plainly right; NotImplemented otherwise.");
  m.def("matmul_integer_fast", &matmul_integer_fast,
        "matmul_integer() by a packed weight where everything is plainly right; NotImplemented otherwise.");

  m.def("isas", &isas, "The instruction sets that are built, from the least to the best.");
  m.def("active_isa", [] { return pc_isa_name(pc_isa_active()); });
  m.def(
      "set_isa", [](const std::optional<std::string>& name) { check(pc_set_isa(name ? name->c_str() : nullptr)); }, py::arg("name"),
      "Force an instruction set by name, None for the best. Weights that are packed keep theirs.");
  m.def("last_kernel", &pc_last_kernel, "The kernel that this thread used last, as 'gemm_s8/avx2'.");
  m.def("cpu_name", [] { return std::string(cpu_info().name); });
  m.def("usable_cpus", &pc::usable_cpus, "CPUs that this process may use: affinity and cgroup quota.");
  m.def("cache_sizes", [] {
    const pc_cpu_info info = cpu_info();
    return std::make_tuple(info.l1d_bytes, info.l2_bytes, info.l3_bytes);
  });
  m.def("measure_peak", &measure_peak, py::arg("type"), "Multiply-accumulates per second of one core, from registers.");
  m.def("get_num_threads", &pc_get_num_threads);
  m.def("set_num_threads", [](int32_t n) { check(pc_set_num_threads(n)); }, py::arg("n"));
  m.def("version", &pc_version);
  m.def("compiler", &compiler);
}
