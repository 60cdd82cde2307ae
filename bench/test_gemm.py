"""Dense products: every form of ours on every bundled shape."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pycompress.bench import gemm
from pycompress.bench.shapes import Shape


@pytest.fixture(scope="session")
def operands(shape: Shape) -> gemm.Operands:
    return gemm.Operands.of(shape)


@pytest.mark.parametrize("form", gemm.FORMS, ids=lambda form: form.name)
def test_gemm(report: Callable[..., None], shape: Shape, operands: gemm.Operands, form: gemm.Form) -> None:
    report(gemm.OURS.setup(operands, form.name), "MAC", shape.macs, form.peak)
