// pycompress._native: the fast path from Python. A thin reading of NumPy arrays over the C interface; arguments have been checked by the Python
// layer. One file for each family, over native.h.
#include "core/cpu.h"
#include "native.h"

namespace py = pybind11;

namespace {

using pc::python::check;

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

  pc::python::bind_linear(m);  // first: it has the base class of all packed weights
  pc::python::bind_quant(m);
  pc::python::bind_gemm(m);
  pc::python::bind_int4(m);
  pc::python::bind_lowrank(m);
  pc::python::bind_pool(m);
  pc::python::bind_sparse(m);
  pc::python::bind_conv(m);

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
