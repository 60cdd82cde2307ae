"""`pycompress bench conv`: cases, and ours against the float64 reference that the peers are checked by."""

from __future__ import annotations

import numpy as np
import pytest

from pycompress.bench.conv import CASES, FAMILY, Case
from pycompress.bench.versus import deviation


def test_cases_are_read_as_written() -> None:
    assert [str(Case.parse(text)) for text in CASES] == list(CASES)
    assert Case.parse("depthwise:14x512:k3:s1").macs == 14 * 14 * 512 * 9
    assert Case.parse("conv:224x3>32:k3:s2").macs == 112 * 112 * 32 * 27
    assert Case.parse("separable:14x8>16:k3:s2").macs == 7 * 7 * (8 * 9 + 8 * 16)


@pytest.mark.parametrize(
    "text",
    ["", "conv:14x8:k3:s1", "depthwise:14x8>8:k3:s1", "conv:0x8>8:k3:s1", "conv:1x8>8:k4:s1x", "dense:1x8>8:k1:s1"],
)
def test_no_case(text: str) -> None:
    with pytest.raises(ValueError, match="is no convolution"):
        Case.parse(text)


@pytest.mark.parametrize("form", [form.name for form in FAMILY.forms])
@pytest.mark.parametrize(
    "text", ["depthwise:9x20:k3:s1", "depthwise:9x20:k5:s2", "separable:8x24>40:k3:s2", "conv:7x5>9:k3:s2"]
)
def test_ours(text: str, form: str) -> None:
    operands = FAMILY.operands(FAMILY.parse(text))
    got = FAMILY.values(operands, form, np.asarray(FAMILY.ours(operands, form)()))
    assert deviation(got, FAMILY.reference(operands, form)) <= FAMILY.form(form).tolerance
