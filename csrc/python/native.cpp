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

}  // namespace pc::python
