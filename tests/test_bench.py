"""`pycompress bench` and the measuring behind it: no time is asserted, only what is measured and how it is told."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pycompress as pc
from pycompress import _backend
from pycompress.bench import gemm, measure, shapes
from pycompress.bench.shapes import Shape
from pycompress.cli import app

TINY = ("--quick", "--rounds", "2")


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["bench", "gemm", *map(str, arguments)], catch_exceptions=False)


# ---- shapes


def test_bundled_shapes() -> None:
    assert shapes.names() == ["minilm", "mixed", "mobilenet_v2", "square"]
    for name in shapes.names():
        found = shapes.load(name)
        assert len({(shape.m, shape.k, shape.n) for shape in found}) == len(found)
    assert Shape(128, 384, 1536, "intermediate") in shapes.load("minilm")
    assert all(shape.m == shape.k == shape.n for shape in shapes.load("square"))
    assert Shape(49, 320, 1280, "features.18") in shapes.load("mobilenet_v2")


def test_mobilenet_v2_is_its_definition() -> None:
    """From the table of the paper: expansion, channels out, repeats, stride of each stage."""
    wanted, size, c_in = set(), 112, 32
    for expand, c_out, repeats, first_stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(repeats):
            hidden = expand * c_in
            if expand > 1:
                wanted.add((size**2, c_in, hidden))
            size //= first_stride if i == 0 else 1
            wanted.add((size**2, hidden, c_out))
            c_in = c_out
    wanted.add((size**2, 320, 1280))
    assert {(shape.m, shape.k, shape.n) for shape in shapes.load("mobilenet_v2")} == wanted


def test_a_file_of_shapes(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# a comment\n\n1 2 3\n  4\t5 6 # last # of all\n", encoding="utf-8")
    assert shapes.load(str(path)) == [Shape(1, 2, 3), Shape(4, 5, 6, "last # of all")]
    assert str(shapes.load(str(path))[1]) == "4x5x6"
    assert Shape(4, 5, 6).macs == 120
    for line in "1 2", "1 2 3 4", "1 2 x", "0 2 3", "-1 2 3", "1.5 2 3":
        path.write_text(f"7 8 9\n{line}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"line 2: .* wanted three positive integers M K N"):
            shapes.load(str(path))
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no shapes"):
        shapes.load(str(path))
    with pytest.raises(FileNotFoundError, match="bundled are minilm, mixed"):
        shapes.load(str(tmp_path / "none.txt"))


@pytest.mark.parametrize("text", ["", "3", "3x4", "3x4x5x6", "3x4x", "3x4x0", "axbxc", "3,4,5", "3x-4x5", "3X4X5"])
def test_a_wrong_shape(text: str) -> None:
    with pytest.raises(ValueError, match="wanted three positive integers MxKxN"):
        shapes.parse(text)
    result = invoke("--shape", text)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"error: shape {text!r}, wanted three positive integers MxKxN\n"


# ---- measuring


def test_turns_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "WINDOW", 0.0)
    monkeypatch.setattr(measure, "TURN", 1)
    events: list[str] = []
    calls = {name: lambda name=name: events.append(name) for name in "abc"}
    seconds = measure.interleaved(calls, 3, lambda: events.append("|"), lambda: events.append("."))
    assert "".join(events).partition("|")[2] == "a.b.c.|b.c.a.|c.a.b."
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_rate() -> None:
    rate = measure.Rate.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert rate.median == 3
    assert rate.spread == (4 - 2) / 3
    assert measure.Rate.of([5.0]).spread == 0


@pytest.mark.parametrize("form", [form.name for form in gemm.FORMS])
def test_the_forms_compute_the_product(form: str) -> None:
    operands = gemm.Operands.of(Shape(9, 70, 21))
    wanted = operands.x @ operands.w.T
    got: Any = gemm.OURS.setup(operands, form)()
    if form == "u8s8":
        got = got * (operands.x_qparams.scale * operands.weight.scale)
    elif form == "static":
        scale, zero_point = operands.y_qparams
        got = (got.astype(float) - zero_point) * scale
    assert got.shape == (9, 21)
    tolerance = {"f32": 1e-5, "f32_array": 1e-5, "f16": 1e-3}.get(form, 0.3 if form.startswith("int4") else 0.08)
    assert abs(got - wanted).max() < tolerance * abs(wanted).max()


# ---- the command


def test_json() -> None:
    threads, isa = pc.get_num_threads(), pc.cpu_info()["isa"]
    result = invoke(*TINY, "--shape", "5x33x17", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found) == ["cpu", "threads", "rounds", "numpy", "shapes"]
    assert (found["threads"], found["rounds"]) == (1, 2)
    assert found["cpu"]["backend"] == _backend.NAME
    (row,) = found["shapes"]
    assert (row["shape"], row["m"], row["k"], row["n"], row["layer"]) == ("5x33x17", 5, 33, 17, "")
    forms = [(entry["runner"], entry["form"]) for entry in row["results"]]
    assert forms == [("pycompress", form.name) for form in gemm.FORMS] + [("numpy", "f32_array")]
    for entry in row["results"]:
        assert entry["gmacs"] > 0
        assert entry["spread"] >= 0
        known = _backend.NAME == "native" and entry["runner"] == "pycompress"
        assert entry["of_peak"] > 0 if known else entry["of_peak"] is None
    assert (pc.get_num_threads(), pc.cpu_info()["isa"]) == (threads, isa)


def test_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    path = tmp_path / "mine.txt"
    path.write_text("3 4 5  # first\n3 4 5  # again\n", encoding="utf-8")
    result = invoke(*TINY, "--shapes", path, "--shape", "2x3x4", "--threads", 2)
    assert result.exit_code == 0, result.output
    for text in "2x3x4", "3x4x5", "u8 s8 -> s32", "numpy f32", "2 threads", "OPENBLAS_CORETYPE=Haswell", "2 rounds":
        assert text in result.stdout
    assert result.stdout.count("3x4x5") == 1


def test_numpy_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "threadpoolctl":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    result = invoke(*TINY, "--shape", "2x3x4")
    assert result.exit_code == 0, result.output
    assert "threadpoolctl is not installed" in result.stdout


def test_isa() -> None:
    result = invoke(*TINY, "--shape", "2x3x4", "--isa", "sse9")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "sse9" in result.stderr
    assert result.stderr.count("\n") == 1
    if _backend.NAME == "native":
        result = invoke(*TINY, "--shape", "2x3x4", "--isa", "scalar", "--json")
        assert json.loads(result.stdout)["cpu"]["isa"] == "scalar"


def test_errors_are_one_line() -> None:
    result = invoke("--shapes", "no_such_model")
    assert result.exit_code == 1
    assert "'no_such_model'; bundled are minilm, mixed, mobilenet_v2, square" in result.stderr
    result = invoke("--shape", "1x999999x1")
    assert result.exit_code == 1
    assert "1x999999x1: k is 999999" in result.stderr
    assert "Traceback" not in result.stderr
    assert invoke("--threads", 0).exit_code == 2
