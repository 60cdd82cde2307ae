"""Benches of sparse weights: the operands, every form, the arithmetic of break-evens, the command, and `explain`."""

from __future__ import annotations

import ctypes
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import pycompress as pc
from pycompress.bench import curves, measure, peer, process, report, sparse, versus
from pycompress.bench.process import Process
from pycompress.cli import app
from pycompress.weights import explain

FORMS = [form.name for form in sparse.FORMS]
CASE = sparse.parse("9x72x33@75")


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["bench", "sparse", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is asserted here, so none has to be long."""
    monkeypatch.setattr(versus, "TURN", 0.0)
    monkeypatch.setattr(versus, "_bandwidth", lambda sides: {"L2": 2e11, "L3": 1e11, "DRAM": 2e10})
    monkeypatch.setattr(measure, "WINDOW", 0.0)
    monkeypatch.setattr(measure, "TURN", 1)


def test_cases() -> None:
    for text in "128x768x768@80", "1x2x3@0", "1x2x3@100", "4x5x6@62.5":
        assert str(sparse.parse(text)) == text
    assert sparse.FAMILY.macs(CASE) == 9 * 72 * 33
    assert sparse.FAMILY.work is not None
    assert sparse.FAMILY.work(CASE) == 9 * 72 * 33 / 4


@pytest.mark.parametrize(
    "text", ["", "1x2x3", "1x2x3@", "1x2x3@101", "1x2x3@-1", "1x2x3@a", "1x2@50", "1x2x3@5@5", "1x2x3@nan"]
)
def test_a_wrong_case(text: str) -> None:
    with pytest.raises(ValueError, match="wanted"):
        sparse.parse(text)
    result = invoke("--case", text)
    assert result.exit_code == 1
    assert result.stdout == ""


def test_zeros_are_whole_blocks_of_the_right_number() -> None:
    w = np.ones((32, 24), np.float32)
    for block in (1, 1), (1, 4), (4, 1), (16, 1), (5, 7):
        zeros = sparse.pruned(w, block, 0.7, [1]) == 0
        rows, columns = -(-32 // block[0]), -(-24 // block[1])
        padded = np.pad(zeros, [(0, -32 % block[0]), (0, -24 % block[1])], "edge")
        by_block = padded.reshape(rows, block[0], columns, block[1]).transpose(0, 2, 1, 3)
        assert (by_block.all(axis=(2, 3)) == by_block.any(axis=(2, 3))).all()
        assert by_block.all(axis=(2, 3)).sum() == round(0.7 * rows * columns)
    assert (sparse.pruned(w, (1, 1), 0.7, [1]) == sparse.pruned(w, (1, 1), 0.7, [1])).all()
    assert (sparse.pruned(w, (1, 1), 0.7, [1]) != sparse.pruned(w, (1, 1), 0.7, [2])).any()


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_compute_the_product(form: str) -> None:
    operands = sparse.Operands(CASE)
    weight = operands.weight(form)
    assert weight.data.dtype == (np.float32 if form.startswith("f32") else np.int8)
    assert (getattr(weight, "block", (1, 1))) == sparse.KINDS[form].block
    wanted = sparse.FAMILY.reference(operands, form)
    for way in sparse.ours, sparse.ours_dense:
        got = sparse.FAMILY.values(operands, form, np.asarray(way(operands, form)()))
        assert versus.deviation(got, wanted) <= sparse.FAMILY.form(form).tolerance
    dense = operands.dense(form).w
    assert np.abs(wanted - operands.dense(form).x @ dense.T).max() < 0.1 * np.abs(wanted).max()
    if not form.startswith("f32"):  # the same bits as the dense weight
        assert (np.asarray(sparse.ours(operands, form)()) == np.asarray(sparse.ours_dense(operands, form)())).all()


def test_breakeven() -> None:
    percent = [50, 60, 70, 80]
    assert sparse.breakeven(percent, [0.5, 0.8, 1.2, 2]) == pytest.approx(65)
    assert sparse.breakeven(percent, [0.5, 1.0, 1.2, 2]) == 60
    assert sparse.breakeven(percent, [1.1, 1.2, 1.3, 2]) == 50
    assert sparse.breakeven(percent, [0.5, 0.6, 0.7, 0.9]) is None
    assert sparse.breakeven(percent, [1.1, 0.9, 1.3, 2]) == pytest.approx(62.5)  # it has to stay ahead


def test_breakeven_command(quick: None, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    of = ("--breakeven", "--shape", "5x64x48", "--sparsity", 90, "--sparsity", 50, "--rounds", 2)
    result = invoke(*of, "--json", "--plot", picture)
    assert result.exit_code == 0, result.output
    run = json.loads(result.stdout)
    found = run["breakeven"][0]
    assert (found["shape"], found["sparsity"]) == ("5x64x48", [50, 90])
    assert [curve["form"] for curve in found["curves"]] == FORMS
    assert set(found["dense"]) == {"static", "dynamic", "f32"}
    for curve in found["curves"]:
        assert curve["work"] == pytest.approx([0.5 * curve["gmacs"][0], 0.1 * curve["gmacs"][1]])
        assert curve["breakeven"] == sparse.breakeven([50, 90], curve["ratio"])
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = curves.markdown(run)
    assert all(f"| {form.title} |" in page for form in sparse.FORMS)
    assert "**5x64x48**" in page
    saved = tmp_path / "a.json"
    saved.write_text(json.dumps(run), encoding="utf-8")
    again = CliRunner().invoke(app, ["bench", "report", str(saved), str(saved), "--markdown"], catch_exceptions=False)
    assert again.stdout == page
    other = tmp_path / "b.json"
    other.write_text(json.dumps({**run, "threads": 7}), encoding="utf-8")
    again = CliRunner().invoke(app, ["bench", "report", str(saved), str(other)], catch_exceptions=False)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "threads is 1 in one file and 7 in another" in again.stderr
    result = invoke(*of, "--form", "f32_csr", "--threads", 1)
    assert result.exit_code == 0
    assert "CSR float32" in result.stdout
    assert "BSR" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--breakeven", "--peers"), "--breakeven compares our own kernels"),
        (("--breakeven", "--case", "1x2x3@4"), "--breakeven compares our own kernels"),
        (("--shape", "1x2x3"), "belong to --breakeven"),
        (("--form", "none"), "there is no form 'none'"),
        (("--breakeven", "--form", "none"), "there is no form 'none'"),
        (("--breakeven", "--shape", "1x2"), "wanted three positive integers"),
        (("--isa", "z80"), "'z80'"),
        (("--breakeven", "--isa", "z80"), "'z80'"),
        (("--plot", "/nowhere/a.png"), "there is no directory"),
    ],
)
def test_errors(arguments: tuple[str, ...], told: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert told in result.stderr
    assert result.stdout == ""


def test_beside_our_dense(quick: None) -> None:
    result = invoke("--case", CASE, "--form", "int8_1x4", "--form", "f32_csr", "--rounds", 1, "--json")
    assert result.exit_code == 0, result.output
    run = json.loads(result.stdout)
    assert run["failures"] == []
    assert run["peers"]["pycompress_dense"]["group"] == "our dense"
    for found in run["results"]:
        assert [entry["peer"] for entry in found["entries"]] == ["pycompress", "pycompress_dense"]
        assert not any(entry["differs"] for entry in found["entries"])
        assert found["work"] == found["macs"] / 4
    table = next(iter(report.tables(run)))
    assert table.columns[:5] == ["case", "pycompress", "real work", "of peak", "to our dense"]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert float(row["real work"]) == pytest.approx(float(row["pycompress"]) / 4, abs=0.1)
    ratio = run["results"][0]["entries"][1]["ratio"]["median"]
    assert float(row["to our dense"]) == pytest.approx(ratio, abs=0.01)


def test_groups_are_told_apart() -> None:
    served = {name: peer.load(name).groups.get("sparse") for name in peer.names()}
    assert {n for n, g in served.items() if g == "sparse"} == {"scipy", "sparse_dot_mkl", "torch_sparse", "xnnpack"}
    assert served["pycompress_dense"] == "our dense"
    assert {"onnxruntime", "torch_onednn", "torch_fbgemm", "numpy"} <= {n for n, g in served.items() if g == "dense"}


def test_who_is_not_held_in_a_dense_form_is_not_in_a_sparse_one() -> None:
    for name in peer.names():
        about = peer.load(name)
        for form in about.served.get("sparse", {}):
            if "gemm" in about.served:
                assert about.obeys("avx2", form) == about.obeys("avx2", sparse.KINDS[form].dense), (name, form)


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")
@pytest.mark.parametrize("form", ["dynamic_1x4", "f32_8x1", "f32_csr"])
def test_scipy(form: str) -> None:
    operands = sparse.Operands(CASE)
    made: Any = peer.load("scipy").setups["sparse"](operands, form)
    got = made.result(made.call())
    assert versus.deviation(got, sparse.FAMILY.reference(operands, form)) <= sparse.FAMILY.form(form).tolerance


def has_xnnpack() -> bool:
    try:
        ctypes.CDLL(peer.load("xnnpack").libraries[0])
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_xnnpack(), reason="XNNPACK is not installed")
def test_xnnpack(tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    worker = Process("xnnpack", process.cores(1), 1, None, {}, 100)
    try:
        for form in "dynamic_1x4", "f32_8x1", "f32_csr":
            worker.ask("setup", family="sparse", case=str(CASE), form=form)
            worker.ask("check", to=str(path))
            error = versus.deviation(np.load(path), sparse.FAMILY.reference(sparse.Operands(CASE), form))
            assert error <= sparse.FAMILY.form(form).tolerance, form
    finally:
        worker.end()


# ---- explain


def weights() -> list[Any]:
    w = sparse.pruned(np.random.default_rng(0).standard_normal((24, 40), np.float32), (4, 4), 0.7, [0])
    return [
        pc.CSRWeight.from_dense(w),
        pc.CSRWeight.from_dense(w, bits=8),
        pc.BSRWeight.from_dense(w, (4, 4)),
        pc.BSRWeight.from_dense(w, (1, 4), bits=8),
    ]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "SECONDS", 0.001)


@pytest.mark.parametrize("weight", weights(), ids=repr)
def test_explain(weight: Any, short: None) -> None:
    found = weight.explain(3)
    assert list(found.seconds) == ["sparse", "int8", "float32"]
    assert all(0 < seconds < 1 for seconds in found.seconds.values())
    assert found.seconds[found.best] == min(found.seconds.values())
    assert (found.m, found.num_threads) == (3, pc.get_num_threads())
    text = str(found)
    assert "this weight" in text
    assert text.count("<- best") == 1
    assert next(line for line in text.splitlines() if "<- best" in line).split()[1] in ("weight", found.best)


def test_the_forms_of_explain_are_of_the_same_values(short: None) -> None:
    for weight in weights():
        forms = explain.dense_forms(weight)
        if weight.scale is not None:
            assert (forms["int8"].todense() == weight.todense()).all()
        assert (forms["float32"].todense() == weight.todense()).all()


def test_explain_without_int8(short: None) -> None:
    w = np.eye(8, dtype=np.float32)
    w[0, 0] = np.nan
    assert list(pc.CSRWeight.from_dense(w).explain(1).seconds) == ["sparse", "float32"]


def test_explain_refuses(short: None) -> None:
    weight = weights()[0]
    for m in 0, -1:
        with pytest.raises(ValueError, match="wanted at least 1"):
            weight.explain(m)
    for m in 1.5, "3", None:
        with pytest.raises(TypeError, match="wanted an int"):
            weight.explain(m)


def test_explain_tells_the_best() -> None:
    found = explain.Explanation("W", 4, 1, "avx2", {"sparse": 2e-6, "int8": 1e-6, "float32": 4e-6})
    assert found.best == "int8"
    assert str(found).splitlines() == [
        "W, 4 rows, avx2, 1 thread:",
        "  this weight          2.0 us",
        "  dense int8           1.0 us, this weight is 0.50x as fast <- best",
        "  dense float32        4.0 us, this weight is 2.00x as fast",
    ]
