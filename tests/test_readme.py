"""The README's Python runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(not README.exists(), reason="the tests run without the sources")
def test_python_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    assert names["y"].shape == (128, 768)
    q, weight, zero_point = names["q"].astype(np.int64), names["weight"], names["zero_point"]
    np.testing.assert_array_equal(names["s"], (q - int(zero_point)) @ weight.q.T.astype(np.int64))
