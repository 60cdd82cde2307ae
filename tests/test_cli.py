"""The command: its frame, and the doctor with the self-check behind it. tests/test_bench.py has `bench`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import pycompress as pc
from pycompress import _backend, selfcheck
from pycompress._forced import forced
from pycompress.cli import app

native = pytest.mark.skipif(_backend.NAME != "native", reason="needs the compiled kernels")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from _pycompress_command import main; main()"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_frame() -> None:
    assert invoke("--version").stdout == f"pycompress {pc.__version__}\n"
    result = invoke("--help")
    assert result.exit_code == 0
    for name in "doctor", "demo", "bench":
        assert name in result.stdout
    assert invoke("no-such-command").exit_code == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_full_disk_behind_stdout(tmp_path: Path, options: list[str]) -> None:
    model = tmp_path / "model.safetensors"
    pc.compress({"layer.weight": np.ones((64, 64), np.float32)}, "int8").save(model)
    code = "from _pycompress_command import main; main()"
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", code, "inspect", str(model), *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "error: [Errno 28] No space left on device\n"


def test_help_is_light() -> None:
    code = (
        "import sys; from pycompress.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numba', 'matplotlib', 'tokenizers', 'cffi') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        pytest.param("PYCOMPRESS_ISA", "sse9", "'sse9' is not in this build", marks=native),
        ("PYCOMPRESS_BACKEND", "cuda", "PYCOMPRESS_BACKEND is 'cuda'"),
    ],
)
def test_what_cannot_run_is_one_line(variable: str, value: str, message: str) -> None:
    result = shell("doctor", **{variable: value})
    assert result.returncode == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_import_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("something optional is not installed")

    monkeypatch.setattr(selfcheck, "count", missing)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == "error: something optional is not installed"
    assert "Traceback" not in result.stderr


def test_selfcheck_reaches_split_weights(native: Any) -> None:
    """Where there is a kernel for them, weights of the self-check are split, and have a rest."""
    before = native.active_isa()
    try:
        for isa in (isa["name"] for isa in native.isas() if isa["usable"]):
            native.set_isa(isa)
            for dtype in (np.uint8, np.int8):
                w = selfcheck._splittable(np.random.default_rng(0), dtype, *selfcheck.SHAPES[-1][1:])
                kernel = native.pack_int8(w, np.ones(len(w), np.float32)).kernel
                assert kernel == ("gemm_s8_split/avx2" if isa == "avx2" else f"gemm_s8/{isa}")
    finally:
        native.set_isa(before)


def test_doctor() -> None:
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for text in _backend.NAME, "threads", "numpy", "C interface", "self-check", "gemm_int8, u8 s8", "checks passed":
        assert text in result.stdout
    assert "FAILED" not in result.stdout


def test_doctor_json() -> None:
    isa = pc.cpu_info()["isa"]
    result = invoke("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    names = "cpu backend isa cores threads caches versions c_interface thread_pools peak checks ok"
    assert list(found) == names.split()
    assert found["ok"] is True
    assert found["backend"]["name"] == _backend.NAME
    assert found["isa"]["active"] == isa == pc.cpu_info()["isa"]
    assert found["threads"]["number"] == pc.get_num_threads()
    assert found["versions"]["numpy"] == np.__version__
    assert set(found["peak"]) == {"int8", "float32"}
    assert all(value > 0 if _backend.NAME == "native" else value is None for value in found["peak"].values())
    assert len(found["checks"]) == selfcheck.count()
    for check in found["checks"]:
        assert list(check) == ["name", "isa", "kernel", "ok", "reason"]
        assert check["ok"]
        assert check["reason"] == ""
    assert {check["isa"] for check in found["checks"]} == set(selfcheck.isas())


def test_doctor_in_a_process_of_its_own() -> None:
    result = shell("doctor", "--json", PYCOMPRESS_NUM_THREADS="3")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["threads"] == {"number": 3, "why": "PYCOMPRESS_NUM_THREADS=3"}


@native
def test_doctor_says_why() -> None:
    result = shell("doctor", "--json", PYCOMPRESS_ISA="scalar", OMP_NUM_THREADS="2,1", PYCOMPRESS_NUM_THREADS="many")
    found = json.loads(result.stdout)
    assert found["isa"]["active"] == "scalar"
    assert found["isa"]["why"].startswith("PYCOMPRESS_ISA=scalar; the best here is ")
    assert found["threads"]["number"] == 2
    assert found["threads"]["why"].startswith("OMP_NUM_THREADS=2,1; PYCOMPRESS_NUM_THREADS='many' is ignored")


def wrong(function: Callable[..., Any], out: int) -> Callable[..., Any]:
    """The function with one value of its result spoiled, which it writes into argument `out`."""

    def spoiled(*arguments: Any) -> Any:
        result = function(*arguments)
        last = arguments[out].reshape(-1)[-1:]
        last += np.array(3, last.dtype)
        return result

    return spoiled


@pytest.mark.parametrize(
    ("name", "out", "checks"),
    [
        ("quantize_linear", 3, 1),
        ("dequantize_linear", 3, 1),
        ("dynamic_quantize_linear", 1, 1),
        ("quantize_rows", 2, 1),
        ("gemm_int8", 4, 4),
        ("linear", 6, 3),
        ("linear_f32", 4, 1),
        ("pool", 1, 1),
        ("add", 2, 1),
    ],
)
def test_a_broken_kernel_is_found(name: str, out: int, checks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = _backend.kernels()
    monkeypatch.setattr(kernels, name, wrong(getattr(kernels, name), out))
    isa = pc.cpu_info()["isa"]
    failed = [check for check in selfcheck.run() if not check.ok]
    # Other checks may use the function as well; those that are about it have to fail.
    about = [check for check in failed if check.name.startswith("linear_int8" if name == "linear" else name)]
    assert len(about) == checks * len(selfcheck.isas())
    for check in about:
        assert "differ, first at [" in check.reason
    assert pc.cpu_info()["isa"] == isa


def test_doctor_tells_a_broken_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = _backend.kernels()
    monkeypatch.setattr(kernels, "gemm_int8", wrong(kernels.gemm_int8, 4))

    def raising(*arguments: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(kernels, "linear_f32", raising)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "FAILED gemm_int8, u8 s8 on " in result.stdout
    assert "RuntimeError: out of order" in result.stdout
    failed = int(re.search(rf"(\d+) of {selfcheck.count()} checks failed", result.stdout)[1])
    assert failed >= 5 * len(selfcheck.isas())
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False


def test_forced() -> None:
    threads, isa = pc.get_num_threads(), pc.cpu_info()["isa"]
    with pytest.raises(ValueError, match="sse9"), forced("sse9", 1):
        pass

    def fail() -> None:
        with forced(isa and "scalar", threads + 1):
            assert pc.get_num_threads() == threads + 1
            assert pc.cpu_info()["isa"] == (isa and "scalar")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert pc.get_num_threads() == threads
    assert pc.cpu_info()["isa"] == isa


@native
def test_another_kernel_than_the_forced_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = _backend.kernels()
    best = [isa for isa in selfcheck.isas() if isa][-1]
    monkeypatch.setattr(kernels, "last_kernel", lambda: f"gemm_s8/{best}")
    for check in selfcheck.run():
        assert check.ok == (check.isa == best)
        assert check.ok or check.reason == f"{check.isa} was forced, but gemm_s8/{best} ran"
