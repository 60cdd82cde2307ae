"""The README's Python runs, and its C compiles, as they stand."""

import re
import shutil
import subprocess
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


@pytest.mark.skipif(not README.exists(), reason="the tests run without the sources")
def test_c_of_the_readme_compiles(tmp_path):
    capi = pytest.importorskip("pycompress.capi")
    pytest.importorskip("pycompress._native", reason="the compiled part is not installed")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None) or pytest.skip(
        "there is no C compiler"
    )
    (code,) = re.findall(r"```c\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    include, body = code.split("\n\n", 1)
    given = "const int8_t* w, const float* scale, const float* bias, int64_t m, int64_t n, int64_t k, void* packed"
    given += ", const float* x, float* y, void* workspace, int32_t ith, int32_t nth"
    source = tmp_path / "readme.c"
    source.write_text(f"{include}\nvoid layer({given}) {{\n{body}}}\n")
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    done = subprocess.run([compiler, *strict, f"-I{capi.get_include()}", str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
