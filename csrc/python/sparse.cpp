// Sparse weights.
#include <cstring>
#include <memory>

#include "native.h"

namespace pc::python {

namespace {

struct SparsePacked : Packed {
  AlignedMemory memory;
  const char* kernel = "";
  pc_type type = 0;
  double values = 0, macs = 0;  // stored; for a thread of its own

  explicit SparsePacked(size_t bytes) : memory(bytes) {}

  bool quantizes() const override { return type == PC_S8; }

  // Besides the products, turning x into panels and sums into y costs as much as some 32 of them for each value.
  double threads_worth(int64_t m) const override {
    return ((values + 32.0 * static_cast<double>(n + k)) * static_cast<double>(m) + 4 * values) / macs;
  }

  pc_status workspace_size(const LinearCall& c, int32_t nth, size_t* bytes) const override {
    const auto d = product_desc<pc_spmm_desc>(c, n, k);
    return pc_spmm_workspace_size(&d, memory.get(), memory.size(), nth, bytes);
  }

  pc_status run(const LinearCall& c, void* workspace, size_t bytes, int32_t ith, int32_t nth) const override {
    const auto d = product_desc<pc_spmm_desc>(c, n, k);
    return pc_spmm_run(&d, memory.get(), memory.size(), c.x, c.y, workspace, bytes, ith, nth);
  }
};

std::unique_ptr<SparsePacked> pack_sparse(const py::array& values, const py::array& indices, const py::array& indptr,
                                          const std::optional<py::array>& scale, int64_t n, int64_t k) {
  pc_sparse_matrix w{};
  w.size = sizeof w;
  w.type = type_of(values);
  w.n = n;
  w.k = k;
  w.blocks = values.shape(0);
  w.block_n = values.shape(1);
  w.block_k = values.shape(2);
  w.data = values.data();
  w.indices = data<int32_t>(indices);
  w.indptr = data<int32_t>(indptr);
  w.scale = data<float>(scale);
  std::unique_ptr<SparsePacked> packed;
  size_t bytes;
  {
    py::gil_scoped_release release;
    pc_status status = pc_spmm_pack_size(&w, &bytes);
    if (status == PC_OK) {
      packed = std::make_unique<SparsePacked>(bytes);
      status = pc_spmm_pack(&w, packed->memory.get(), bytes);
    }
    py::gil_scoped_acquire acquire;
    check(status);
  }
  check(pc_spmm_packed_info(packed->memory.get(), bytes, &packed->n, &packed->k, &packed->type, &packed->kernel));
  packed->stored = {span_of(values), span_of(indices), span_of(indptr)};
  if (scale) packed->stored.push_back(span_of(*scale));
  packed->values = static_cast<double>(values.size());
  packed->macs = macs_per_thread(std::strchr(packed->kernel, '/') + 1, packed->quantizes());
  return packed;
}

}  // namespace

void bind_sparse(py::module_& m) {
  py::class_<SparsePacked, Packed>(m, "SparsePacked", "A sparse weight, packed for the instruction set that was in use.")
      .def_property_readonly("nbytes", [](const SparsePacked& p) { return p.memory.size(); })
      .def_readonly("kernel", &SparsePacked::kernel);
  m.def("pack_sparse", &pack_sparse, py::arg("data"), py::arg("indices"), py::arg("indptr"), py::arg("scale"), py::arg("n"), py::arg("k"));
}

}  // namespace pc::python
