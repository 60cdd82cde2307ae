"""What `import pycompress` brings along: the cost of an import is in what is loaded, and that can be counted."""

import importlib.metadata
import sys

import pytest
from reference import NATIVE, python

import pycompress as pc

BACKEND = "native" if NATIVE else "numba"
LOADED = "print(*sorted(set(sys.modules) - before))"


def loaded(code, **environment):
    """Modules that `code` loads, beyond those of numpy and of the start of Python."""
    return set(python(f"import sys, numpy; before = set(sys.modules)\n{code}\n{LOADED}", **environment).split())


def foreign(modules):
    """Top-level names of modules that are neither numpy's nor the standard library's."""
    return {name.split(".")[0] for name in modules} - sys.stdlib_module_names - {"numpy"}


@pytest.mark.parametrize("backend", ["native", "numba"] if NATIVE else ["numba"])
def test_import_loads_nothing_but_numpy(backend):
    modules = loaded("import pycompress", PYCOMPRESS_BACKEND=backend)
    assert "pycompress.ops" in modules
    assert foreign(modules) == {"pycompress"}
    later = (
        "bench",
        "capi",
        "cli",
        "demo",
        "distill",
        "inspection",
        "io",
        "kernels",
        "numba",
        "pipeline",
        "qat",
        "recipe",
    )
    later += ("report", "selfcheck", "torch")
    assert not {name for name in modules if name.split(".")[1:2] and name.split(".")[1] in later}


@pytest.mark.parametrize("backend", ["native", "numba"] if NATIVE else ["numba"])
def test_import_loads_no_heavy_part_of_the_standard_library(backend):
    heavy = {
        "asyncio",
        "concurrent.futures",
        "email",
        "http",
        "multiprocessing",
        "subprocess",
        "unittest",
        "urllib.request",
    }
    assert loaded("import pycompress", PYCOMPRESS_BACKEND=backend).isdisjoint(heavy)


CALLS = """
import numpy as np, pycompress as pc
x, w = np.ones((4, 8), np.float32), pc.Int8Weight.from_float(np.ones((5, 8), np.float32))
pc.linear(x, w, activation="gelu"), pc.linear(x, np.ones((5, 8), np.float32))
q, scale, zero_point = pc.dynamic_quantize_linear(x)
pc.quantize_linear(x, scale, zero_point), pc.dequantize_linear(q, scale), pc.matmul_integer(q, q.T)
pc.qlinear_matmul(q, scale, zero_point, q.T, scale, zero_point, scale, zero_point)
pc.cpu_info(), pc.set_num_threads(1)
"""


def test_native_calls_load_nothing_either(native):
    assert foreign(loaded(CALLS, PYCOMPRESS_BACKEND="native")) == {"pycompress"}


def test_numba_comes_with_the_first_call():
    assert "numba" in foreign(loaded(CALLS, PYCOMPRESS_BACKEND="numba"))
    assert "torch" not in loaded(CALLS, PYCOMPRESS_BACKEND="numba")


def test_backend_of_this_process():
    assert pc.cpu_info()["backend"] == BACKEND


def test_public_names():
    assert sorted(pc.__all__) == pc.__all__
    for name in pc.__all__:
        assert getattr(pc, name).__doc__ or name == "__version__"
    assert {"linear", "matmul_integer", "qlinear_matmul", "quantize_linear", "dequantize_linear"} <= {*pc.__all__}


def test_version_is_that_of_the_distribution(native):
    assert pc.__version__ == native.version() == importlib.metadata.version("pycompress-kernels")
