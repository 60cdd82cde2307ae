// What the files of the Python module share: arguments, memory, threads, and the one form in which every kind of weight is called.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "pycompress.h"

namespace pc::python {

namespace py = pybind11;

using QParams = std::optional<std::pair<float, int32_t>>;
using Activation = std::tuple<int32_t, float, float>;
using Threads = std::optional<int32_t>;

// The Python exception of a status.
void check(pc_status status);

class AlignedMemory {
 public:
  explicit AlignedMemory(size_t bytes);
  ~AlignedMemory();
  AlignedMemory(const AlignedMemory&) = delete;
  AlignedMemory& operator=(const AlignedMemory&) = delete;
  void* get() const { return pointer_; }
  size_t size() const { return bytes_; }

 private:
  void* pointer_;
  size_t bytes_;
};

// A thread keeps its workspace from call to call, unless it is large. One at a time in a thread.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  void* get() const { return memory_; }

 private:
  std::optional<AlignedMemory> own_;
  void* memory_;
};

// The arguments of linear(), checked. Zero means "not given", as in the descriptors of the C interface.
struct LinearCall {
  int64_t m = 0;
  const void* x = nullptr;
  void* y = nullptr;
  pc_type x_type = PC_F32, y_type = PC_F32;
  float x_scale = 0;
  int32_t x_zero_point = 0;
  const int32_t* w_zero_points = nullptr;  // of Int8Packed alone
  float y_scale = 0;
  int32_t y_zero_point = 0;
  const float* bias = nullptr;
  pc_activation activation = PC_ACTIVATION_NONE;
  float low = 0, high = 0;
  Threads threads;

  // The same for some of the rows, whose x and y lie one after another.
  LinearCall rows(int64_t first, int64_t count, int64_t n, int64_t k) const;
};

inline int64_t size_of(pc_type type) { return type == PC_F32 || type == PC_S32 ? 4 : 1; }

// The part of a descriptor of the C interface that says how x and y are quantized, and the last step.
template <class Desc> Desc with_call(Desc d, const LinearCall& c) {
  d.x_type = c.x_type;
  d.y_type = c.y_type;
  d.x_scale = c.x_scale;
  d.x_zero_point = c.x_zero_point;
  d.y_scale = c.y_scale;
  d.y_zero_point = c.y_zero_point;
  d.bias = c.bias;
  d.activation = c.activation;
  d.low = c.low;
  d.high = c.high;
  return d;
}

// The whole descriptor of a product with a weight [n, k].
template <class Desc> Desc product_desc(const LinearCall& c, int64_t n, int64_t k) {
  Desc d{};
  d.size = sizeof d;
  d.m = c.m;
  d.n = n;
  d.k = k;
  return with_call(d, c);
}

// A weight in the form of the kernel that will read it. A kind implements the four virtual functions; none of them may touch Python, since `run` is
// called from several threads without the GIL.
struct Packed {
  int64_t n = 0, k = 0;
  // What it was packed from, which its owner keeps: no result may go there.
  std::vector<Span> stored;

  virtual ~Packed() = default;
  // Whether x is uint8, int8, or float32 that is quantized on the way; else it is float32 and stays so.
  virtual bool quantizes() const = 0;
  // How many threads m rows are worth; less than 0.01 when giving back the GIL costs more than the call lasts.
  virtual double threads_worth(int64_t m) const = 0;
  // As pc_..._workspace_size and pc_..._run of the C interface.
  virtual pc_status workspace_size(const LinearCall& call, int32_t nth, size_t* bytes) const = 0;
  virtual pc_status run(const LinearCall& call, void* workspace, size_t bytes, int32_t ith, int32_t nth) const = 0;

  // Of a dense convolution, for kinds that have a form of their own: as pc_conv_s8_workspace_size and pc_conv_s8_run. `call` says nothing of m.
  // Else PC_ERROR_TYPE, and tiles of rows go through `run`.
  virtual pc_status conv_workspace_size(const LinearCall&, const pc_conv_desc&, int64_t /*groups*/, int32_t /*nth*/, size_t*) const {
    return PC_ERROR_TYPE;
  }
  virtual pc_status conv_run(const LinearCall&, const pc_conv_desc&, int64_t /*group*/, int64_t /*groups*/, void* /*workspace*/, size_t /*bytes*/,
                             int32_t /*ith*/, int32_t /*nth*/) const {
    return PC_ERROR_TYPE;
  }

  // All of it, on the pool.
  virtual void linear(const LinearCall& call) const;
};

// The same for a plain float32 weight w[i * ldn + j * ldk]; both 0 for [n, k] without gaps.
void linear_f32(const LinearCall& call, const float* w, int64_t n, int64_t k, int64_t ldn, int64_t ldk);

// Handing work to a sleeping thread takes up to 50 us: that many multiply-accumulates, at the speed of the kernel's instruction set, have to be in
// it for a thread of its own.
double macs_per_thread(const char* isa, bool int8);
// The cost of a product in multiply-accumulates: reading the weight costs as much as 4 rows of x.
inline double cost(int64_t m, int64_t n, int64_t k) { return static_cast<double>(n) * static_cast<double>(k) * static_cast<double>(m + 4); }

int32_t threads_for(double worth, Threads wanted);
constexpr double kSmall = 0.01;  // of a thread: work below it keeps the GIL

// Runs body(ith, nth) on the pool without the GIL. Small work keeps it: giving it back costs more than it lasts.
template <class Body> pc_status parallel(int32_t nth, bool small, Body body) {
  auto call = [](void* context, int32_t ith, int32_t n) { return (*static_cast<Body*>(context))(ith, n); };
  if (small) return body(0, 1);
  py::gil_scoped_release release;
  return pc_parallel(call, &body, nth);
}

inline pc_type type_of(const py::array& a) {
  const char kind = a.dtype().kind();
  if (kind == 'f') return PC_F32;
  return a.itemsize() == 4 ? PC_S32 : kind == 'u' ? PC_U8 : PC_S8;
}

template <class T> T* data(const py::array& a) { return static_cast<T*>(const_cast<void*>(a.data())); }
template <class T> T* data(const std::optional<py::array>& a) { return a ? data<T>(*a) : nullptr; }
Span span_of(const py::array& a);  // from its first byte to its last

// An argument without conversion: its array is nullptr when it is not an exact ndarray of native float32, uint8 or int8, C-contiguous and aligned.
struct Plain {
  const py::detail::PyArray_Proxy* array = nullptr;
  pc_type type = 0;
};
Plain plain(py::handle h);
int64_t size_of(const py::detail::PyArray_Proxy* a);
// An int that fits `type`; false for anything else.
bool plain_zero_point(PyObject* h, pc_type type, int32_t* zero_point);

// Arguments of the fast paths; false or nullptr for anything else. `overlap`: whether two arrays share memory.
const py::detail::PyArray_Proxy* plain_float32(py::handle h);
bool overlap(const Plain& a, const py::detail::PyArray_Proxy* b, pc_type b_type);
bool plain_qparams(py::handle h, pc_type type, float* scale, int32_t* zero_point);
bool named_activation(py::handle h, pc_activation* activation, float* low, float* high);
bool plain_threads(py::handle h, Threads* threads);
bool plain_ints(py::handle h, int count, int64_t least, int64_t* values);  // an int, which stands for all of them, or a tuple
// A new array where `out` is None; else `out`, if it has that shape and type and can be written, or an empty object.
py::object plain_result(py::handle out, const int64_t* shape, int dimensions, pc_type type);

// Each file's part of the module.
void bind_quant(py::module_& m);
void bind_gemm(py::module_& m);
void bind_int4(py::module_& m);
void bind_linear(py::module_& m);
void bind_lowrank(py::module_& m);
void bind_pool(py::module_& m);
void bind_sparse(py::module_& m);
void bind_conv(py::module_& m);

}  // namespace pc::python
