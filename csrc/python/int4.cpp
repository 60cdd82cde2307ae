// int4 weights.
#include <cstring>
#include <memory>

#include "native.h"

namespace pc::python {

namespace {

struct Int4Packed : Packed {
  AlignedMemory memory;
  const char* kernel = "";
  double macs = 0;  // for a thread of its own

  explicit Int4Packed(size_t bytes) : memory(bytes) {}

  bool quantizes() const override { return true; }
  double threads_worth(int64_t m) const override { return cost(m, n, k) / macs; }

  pc_status workspace_size(const LinearCall& c, int32_t nth, size_t* bytes) const override {
    const auto d = product_desc<pc_gemm_s4_desc>(c, n, k);
    return pc_gemm_s4_workspace_size(&d, memory.get(), memory.size(), nth, bytes);
  }

  pc_status run(const LinearCall& c, void* workspace, size_t bytes, int32_t ith, int32_t nth) const override {
    const auto d = product_desc<pc_gemm_s4_desc>(c, n, k);
    return pc_gemm_s4_run(&d, memory.get(), memory.size(), c.x, c.y, workspace, bytes, ith, nth);
  }
};

std::unique_ptr<Int4Packed> pack_int4(const py::array& data, const py::array& scale, int64_t k, int64_t group_size) {
  const int64_t n = data.shape(0);
  size_t bytes;
  check(pc_gemm_s4_pack_size(n, k, group_size, &bytes));
  auto packed = std::make_unique<Int4Packed>(bytes);
  packed->n = n;
  packed->k = k;
  packed->stored = {span_of(data), span_of(scale)};
  {
    py::gil_scoped_release release;
    check(pc_gemm_s4_pack(pc::python::data<uint8_t>(data), n, k, 0, group_size, pc::python::data<float>(scale), packed->memory.get(), bytes));
  }
  check(pc_gemm_s4_packed_info(packed->memory.get(), bytes, nullptr, nullptr, nullptr, &packed->kernel));
  packed->macs = macs_per_thread(std::strchr(packed->kernel, '/') + 1, true);
  return packed;
}

}  // namespace

void bind_int4(py::module_& m) {
  py::class_<Int4Packed, Packed>(m, "Int4Packed", "An int4 weight, packed for the instruction set that was in use.")
      .def_property_readonly("nbytes", [](const Int4Packed& p) { return p.memory.size(); })
      .def_readonly("kernel", &Int4Packed::kernel)
      .def(
          "tobytes", [](const Int4Packed& p) { return py::bytes(static_cast<const char*>(p.memory.get()), p.memory.size()); },
          "The packed form, as pc_gemm_s4_run of the C interface takes it.");
  m.def("pack_int4", &pack_int4, py::arg("data"), py::arg("scale"), py::arg("k"), py::arg("group_size"));
}

}  // namespace pc::python
