#include "native.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace pc::python {

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

AlignedMemory::AlignedMemory(size_t bytes) : pointer_(allocate(bytes)), bytes_(bytes) {
  if (!pointer_) throw std::bad_alloc();
}

AlignedMemory::~AlignedMemory() { deallocate(pointer_); }

Workspace::Workspace(size_t bytes) {
  constexpr size_t kept = size_t{4} << 20;
  thread_local std::optional<AlignedMemory> mine;
  if (bytes > kept) {
    memory_ = own_.emplace(bytes).get();
  } else {
    if (!mine || mine->size() < bytes) mine.emplace(bytes);
    memory_ = mine->get();
  }
}

double macs_per_thread(const char* isa, bool int8) {
  const auto is = [isa](const char* name) { return std::strcmp(isa, name) == 0; };
  const double millions = is("avx512vnni") ? (int8 ? 24 : 6) : is("avxvnni") ? (int8 ? 12 : 3) : is("avx2") ? (int8 ? 8 : 3) : 0.3;
  return millions * 1e6;
}

int32_t threads_for(double worth, Threads wanted) {
  const int32_t most = wanted ? *wanted : pc_get_num_threads();
  return static_cast<int32_t>(std::clamp(worth, 1.0, static_cast<double>(std::max(most, 1))));
}

LinearCall LinearCall::rows(int64_t first, int64_t count, int64_t n, int64_t k) const {
  LinearCall part = *this;
  part.m = count;
  part.x = static_cast<const char*>(x) + first * k * size_of(x_type);
  part.y = static_cast<char*>(y) + first * n * size_of(y_type);
  return part;
}

void Packed::linear(const LinearCall& call) const {
  const double worth = threads_worth(call.m);
  const int32_t nth = threads_for(worth, call.threads);
  size_t bytes;
  check(workspace_size(call, nth, &bytes));
  Workspace workspace(bytes);
  check(parallel(nth, worth < kSmall, [&](int32_t ith, int32_t of) { return run(call, workspace.get(), bytes, ith, of); }));
}

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

Span span_of(const py::array& a) {
  const char *low = static_cast<const char*>(a.data()), *high = low + a.itemsize();
  for (py::ssize_t i = 0; i < a.ndim(); ++i) {
    if (a.shape(i) == 0) return {low, 0};
    (a.strides(i) < 0 ? low : high) += (a.shape(i) - 1) * a.strides(i);
  }
  return {low, static_cast<size_t>(high - low)};
}

int64_t size_of(const py::detail::PyArray_Proxy* a) {
  int64_t size = 1;
  for (int i = 0; i < a->nd; ++i) size *= a->dimensions[i];
  return size;
}

bool plain_zero_point(PyObject* h, pc_type type, int32_t* zero_point) {
  if (!PyLong_CheckExact(h)) return false;
  int overflow;
  const long value = PyLong_AsLongAndOverflow(h, &overflow);
  *zero_point = static_cast<int32_t>(value);
  return overflow == 0 && value >= (type == PC_S8 ? -128 : 0) && value <= (type == PC_S8 ? 127 : 255);
}

bool plain_ints(py::handle h, int count, int64_t least, int64_t* values) {
  constexpr long kLargest = 1L << 30;
  const auto one = [&](PyObject* o, int64_t* value) {
    if (!PyLong_CheckExact(o)) return false;
    int overflow;
    const long v = PyLong_AsLongAndOverflow(o, &overflow);
    *value = v;
    return overflow == 0 && v >= least && v <= kLargest;
  };
  if (!PyTuple_CheckExact(h.ptr())) {
    if (!one(h.ptr(), values)) return false;
    std::fill(values + 1, values + count, values[0]);
    return true;
  }
  if (PyTuple_GET_SIZE(h.ptr()) != count) return false;
  for (int i = 0; i < count; ++i)
    if (!one(PyTuple_GET_ITEM(h.ptr(), i), values + i)) return false;
  return true;
}

bool plain_threads(py::handle h, Threads* threads) {
  if (h.is_none()) return true;
  int64_t n;
  if (!PyLong_CheckExact(h.ptr()) || !plain_ints(h, 1, 1, &n) || n > 4096) return false;
  *threads = static_cast<int32_t>(n);
  return true;
}

py::object plain_result(py::handle out, const int64_t* shape, int dimensions, pc_type type) {
  // NumPy aligns to 16 bytes. Where vectors of 64 lie across two cache lines, the next layer loses up to a quarter of its time; small results would
  // lose more by the longer way to their memory.
  constexpr int64_t kWorthAligning = 1 << 16;
  if (out.is_none()) {
    const std::vector<py::ssize_t> sizes(shape, shape + dimensions);
    int64_t bytes = size_of(type);
    for (int i = 0; i < dimensions; ++i) bytes *= shape[i];
    if (bytes >= kWorthAligning) {
      auto memory = std::make_unique<AlignedMemory>(static_cast<size_t>(bytes));
      void* data = memory->get();
      const py::capsule owner(memory.get(), [](void* p) { delete static_cast<AlignedMemory*>(p); });
      memory.release();
      const py::dtype dtype = type == PC_F32 ? py::dtype::of<float>() : type == PC_U8 ? py::dtype::of<uint8_t>() : py::dtype::of<int8_t>();
      return py::array(dtype, sizes, data, owner);
    }
    return type == PC_F32  ? py::array(py::array_t<float>(sizes))
           : type == PC_U8 ? py::array(py::array_t<uint8_t>(sizes))
                           : py::array(py::array_t<int8_t>(sizes));
  }
  const Plain o = plain(out);
  if (!o.array || o.type != type || !(o.array->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) || o.array->nd != dimensions) return {};
  if (!std::equal(shape, shape + dimensions, o.array->dimensions)) return {};
  return py::reinterpret_borrow<py::object>(out);
}

}  // namespace pc::python
