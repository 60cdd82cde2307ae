"""Fixtures of all tests. `reference.py`, `battery.py` and `torch_models.py` beside this file are imported by name."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

import reference

import pycompress as pc
from pycompress import _backend

# The same examples in every run: a failure in CI is a failure here.
settings.register_profile(
    "pycompress",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("pycompress")

# Kernels that an instruction set has not got of its own.
INHERITED = {
    (family, "avxvnni"): "avx2" for family in ("gemm_f32", "gemm_f16", "quant", "pool", "sparse_f32", "depthwise_f32")
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def native():
    """The compiled kernels; tests that are about nothing else are skipped with Numba."""
    if not reference.NATIVE:
        pytest.skip("about the native kernels; the backend is Numba")
    return _backend.kernels()


@pytest.fixture(params=reference.WAYS)
def way(request):
    """Each instruction set, forced for a test; with the Numba backend only "numba".

    Weights have to be packed in the test. way.ran("gemm_s8") asserts that the last kernel was the forced one.
    """
    if request.param == "numba":
        yield Way("numba", None)
        return
    native = _backend.kernels()
    before = native.active_isa()
    native.set_isa(request.param)
    yield Way(request.param, native)
    native.set_isa(before)


class Way:
    def __init__(self, name, native):
        self.name, self._native = name, native

    def ran(self, family):
        if self._native is not None:
            kernel, _, isa = self._native.last_kernel().partition("/")
            assert kernel in (family, f"{family}_few", f"{family}_split")  # or one for few rows, or for split weights
            assert isa == INHERITED.get((family, self.name), self.name)


@pytest.fixture
def threads():
    """pc.set_num_threads, with the default back after the test."""
    yield pc.set_num_threads
    pc.set_num_threads(None)
