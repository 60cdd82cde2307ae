"""What the suites share: each case on one thread, and its speed in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pycompress._forced import forced
from pycompress.bench import measure, shapes


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    with forced(num_threads=1):
        yield


def cases() -> list[Any]:
    """Every bundled shape, named by its file: select with -k minilm."""
    return [pytest.param(shape, id=f"{name}-{shape}") for name in shapes.names() for shape in shapes.load(name)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shape" in metafunc.fixturenames:
        # Scope "session" keeps the cases of a shape together, whose operands are made once.
        metafunc.parametrize("shape", cases(), scope="session")


@pytest.fixture
def report(benchmark: Any) -> Callable[..., None]:
    """Run a call under pytest-benchmark; `amount` of `unit` is done by it, `peak` names the instruction peak."""

    def run(call: measure.Call, unit: str, amount: float, peak: str | None = None) -> None:
        before = measure.peak(peak) if peak else 0.0
        benchmark(call)
        if benchmark.stats is None:  # --benchmark-disable
            return
        rate = amount / benchmark.stats.stats.median
        benchmark.extra_info[f"G{unit}/s"] = rate / 1e9
        if peak and before:
            bound = (before + measure.peak(peak)) / 2
            benchmark.extra_info["peak GMAC/s"] = bound / 1e9
            benchmark.extra_info["of peak"] = rate / bound

    return run
