"""The same bits on every instruction set, backend, number of threads, process and run; and how they are chosen."""

import multiprocessing
import re
import sys
from pathlib import Path

import battery
import numpy as np
import pytest
from reference import NATIVE, WAYS, f32, python

import pycompress as pc

HERE = Path(__file__).parent
DIGEST = f"import sys; sys.path.insert(0, {str(HERE)!r}); import battery; print(battery.digest())"


@pytest.fixture(scope="module")
def digest():
    return battery.digest()


def test_same_bits_again(digest):
    assert battery.digest() == digest


def test_same_bits_in_each_way(way, digest):
    assert battery.digest() == digest
    way.ran("gemm_s8")


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_same_bits_with_threads(way, threads, digest, n):
    threads(n)
    assert battery.digest() == digest
    way.ran("gemm_s8")


@pytest.mark.parametrize("backend", ["native", "numba"])
def test_same_bits_in_a_process_with_each_backend(digest, backend):
    if backend == "native" and not NATIVE:
        pytest.importorskip("pycompress._native", reason="the compiled part is not installed")
    code = f"{DIGEST}; import pycompress; print(pycompress.cpu_info()['backend'])"
    assert python(code, PYCOMPRESS_BACKEND=backend).split() == [digest, backend]


@pytest.mark.parametrize("isa", WAYS)
def test_same_bits_in_a_process_with_each_isa(native, digest, isa):
    code = f"{DIGEST}; from pycompress import _native, cpu_info; print(_native.last_kernel(), cpu_info()['isa'])"
    got = python(code, PYCOMPRESS_ISA=isa, PYCOMPRESS_BACKEND="native").split()
    assert got[0] == digest
    assert got[1] in (f"gemm_s8/{isa}", f"gemm_s8_split/{isa}")
    assert got[2] == isa


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_same_bits_in_a_child_process(digest, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} here")
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert [pool.apply_async(battery.digest).get(timeout=300) for _ in range(2)] == [digest] * 2


# ---- the choice


def test_weight_keeps_the_kernel_it_was_packed_for(native):
    before = native.active_isa()
    weight, x = pc.Int8Weight(np.ones((3, 5), np.int8), np.ones(3, f32)), np.ones((2, 5), f32)
    try:
        native.set_isa("scalar")
        y = pc.linear(x, weight)
        native.set_isa(WAYS[-1])
        assert np.array_equal(pc.linear(x, weight), y)
        assert native.last_kernel() == "gemm_s8/scalar"
        assert np.array_equal(pc.linear(x, pc.Int8Weight(weight.q, weight.scale)), y)
        assert native.last_kernel() in (f"gemm_s8/{WAYS[-1]}", f"gemm_s8_split/{WAYS[-1]}")
    finally:
        native.set_isa(before)


def test_isas_are_those_of_cpu_info(native):
    info = pc.cpu_info()
    assert info["isas"] == WAYS
    assert info["isa"] in WAYS
    assert info["backend"] == "native"


def test_numba_has_no_isa():
    if NATIVE:
        pytest.skip("about the Numba backend")
    info = pc.cpu_info()
    assert (info["backend"], info["isa"], info["isas"]) == ("numba", None, [])


def test_cpu_info_is_plain(threads):
    info = pc.cpu_info()
    assert {*info} == {"name", "backend", "isa", "isas", "cores", "threads", "l1d_bytes", "l2_bytes", "l3_bytes"}
    assert info["name"]
    assert info["cores"] >= 1
    threads(3)
    assert pc.cpu_info()["threads"] == 3
    assert min(info["l1d_bytes"], info["l2_bytes"], info["l3_bytes"]) >= 0


def test_empty_environment_chooses_the_best(native):
    code = "from pycompress import cpu_info; i = cpu_info(); print(i['isa'], i['backend'])"
    usable = [isa["name"] for isa in native.isas() if isa["usable"] and not isa["name"].endswith(("_simde", "_vl"))]
    assert python(code).split() == [usable[-1], "native"]
    assert python(code, PYCOMPRESS_ISA="", PYCOMPRESS_BACKEND="").split() == [usable[-1], "native"]


def unusable():
    """Names that this CPU or build can't run: an unknown one, one of another architecture, and what else there is."""
    built = pc._backend.kernels().isas() if NATIVE else []
    other = "neon" if "neon" not in WAYS else "avx2"
    return ["pentium", "AVX2", other, *(isa["name"] for isa in built if not isa["usable"])]


@pytest.mark.parametrize("isa", unusable())
def test_isa_that_cannot_run_is_an_import_error(native, isa):
    stderr = python("import pycompress", fails=True, PYCOMPRESS_ISA=isa)
    last = stderr.strip().splitlines()[-1]
    assert re.fullmatch(rf"ImportError: PYCOMPRESS_ISA: .*'{isa}'.* run .*'{WAYS[-1]}'", last), stderr
    with pytest.raises(ValueError, match=rf"the instruction set '{isa}'"):
        native.set_isa(isa)


@pytest.mark.parametrize("backend", ["cuda", "Numba", "native "])
def test_backend_that_is_unknown_is_an_import_error(backend):
    stderr = python("import pycompress", fails=True, PYCOMPRESS_BACKEND=backend)
    wanted = f"ImportError: PYCOMPRESS_BACKEND is {backend!r}, wanted 'native' or 'numba'"
    assert stderr.strip().splitlines()[-1] == wanted


@pytest.mark.parametrize("backend", ["", "native"])
def test_without_the_compiled_part(backend):
    """By default Numba takes its place; who asks for it gets the error."""
    code = (
        "import sys; sys.modules['pycompress._native'] = None; import pycompress as pc; print(pc.cpu_info()['backend'])"
    )
    if backend:
        assert "ModuleNotFoundError" in python(code, fails=True, PYCOMPRESS_BACKEND=backend)
    else:
        assert python(code, PYCOMPRESS_BACKEND=backend).strip() == "numba"


def test_python_of_these_tests_is_that_of_the_children():
    assert python("import sys; print(sys.executable)").strip() == sys.executable
