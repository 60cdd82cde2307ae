"""Ours beside peers: what the workers answer, what becomes of those that fail, the arithmetic, and what is shown.

The peers are made up here, so that no library has to be installed; those that are installed are tried at the end.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import pycompress as pc
from pycompress import _backend
from pycompress.bench import gemm, peer, process, report, versus
from pycompress.bench.process import PeerError, Process
from pycompress.bench.shapes import Shape
from pycompress.cli import app

SHAPE = Shape(5, 33, 17)

ADAPTER = """
import ctypes, os, signal, time
import numpy as np
from pycompress.bench.peer import Peer, Ready

PEER = Peer("{name}", "The {name}", {packages}, caps={{"scalar": {{"HELD": "yes"}}}}, not_held=["static"],
            libraries={libraries})
calls = 0

@PEER.family("gemm", {forms})
def gemm(operands, form):
    def product():
        global calls
        calls += 1
        {before}
        y = (operands.q.astype(int) - operands.x_qparams.zero_point) @ operands.weight.q.T.astype(int)
        {after}
        return y
    {setup}
    return product
"""

U8S8 = {"u8s8": "an operation"}


def adapter(directory: Path, name: str, **parts: Any) -> peer.Peer:
    """A made-up peer, correct but for what `parts` say."""
    text = {"packages": [], "libraries": [], "forms": U8S8, "before": "pass", "after": "pass", "setup": "pass"} | parts
    path = directory / f"{name}.py"
    path.write_text(ADAPTER.format(name=name, **text), encoding="utf-8")
    return peer.load(str(path))


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is asserted here, so none has to be long."""
    monkeypatch.setattr(versus, "TURN", 0.0)
    monkeypatch.setattr(versus, "_bandwidth", lambda sides: {"L2": 2e11, "L3": 1e11, "DRAM": 2e10})


def measured(*peers: peer.Peer, forms: tuple[str, ...] = ("u8s8",), **more: Any) -> versus.Run:
    chosen = [gemm.FAMILY.form(form) for form in forms]
    return versus.run(gemm.FAMILY, [SHAPE], chosen, list(peers), rounds=2, **more)


def reasons(run: versus.Run, name: str) -> list[str]:
    return [failure["reason"] for failure in run["failures"] if failure["peer"] == name]


# ---- the worker


def talk(name: str, *lines: str) -> list[Any]:
    """The answers of a worker to these lines, as it writes them."""
    command = [sys.executable, "-m", "pycompress.bench.worker", name]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_protocol(tmp_path: Path) -> None:
    adapter(tmp_path, "talks", before="print('from python'); os.system('echo from a child')", setup="print('setup')")
    setup = {"do": "setup", "family": "gemm", "case": str(SHAPE), "form": "u8s8"}
    answers = talk(
        str(tmp_path / "talks.py"),
        '{"do": "open"}',
        json.dumps(setup),
        json.dumps({"do": "check", "to": str(tmp_path / "y.npy")}),
        '{"do": "turn", "seconds": 0.001}',
        "no json",
        '{"do": "answer"}',
        '{"do": "turn"}',
        json.dumps(setup | {"case": "5x6"}),
    )
    assert answers[:3] == [{"versions": {}}, {}, {}]
    assert answers[3]["seconds"] > 0
    assert answers[4]["error"].startswith("JSONDecodeError: ")
    assert answers[5] == {"error": "ValueError: there is no request 'answer'"}
    assert answers[6]["error"].startswith("TypeError: ")
    assert answers[7] == {"error": "ValueError: shape '5x6', wanted three positive integers MxKxN"}
    operands = gemm.Operands.of(SHAPE)
    assert np.array_equal(np.load(tmp_path / "y.npy"), gemm.FAMILY.reference(operands, "u8s8"))


def test_our_worker() -> None:
    opened, peak = talk("pycompress", '{"do": "open"}', '{"do": "peak", "type": "int8"}')
    assert opened == {"versions": {"pycompress": pc.__version__}}
    assert peak["macs"] > 0 if _backend.NAME == "native" else peak["macs"] == 0


def test_a_worker_is_told_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads, CPUs and the cap; what would hold a BLAS back is gone."""
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_CORETYPE", "HELD")
    told = f"raise RuntimeError([os.environ.get(name) for name in {names!r}], os.sched_getaffinity(0))"
    adapter(tmp_path, "tells", setup=told)
    cores = process.cores(1)
    assert len(cores) == 1
    before = os.sched_getaffinity(0)
    worker = Process(str(tmp_path / "tells.py"), cores, 1, "scalar", {"HELD": "yes"}, 60)
    assert os.sched_getaffinity(0) == before
    try:
        with pytest.raises(PeerError) as caught:
            worker.ask("setup", family="gemm", case=str(SHAPE), form="u8s8")
    finally:
        worker.end()
    assert str(caught.value) == f"RuntimeError: (['1', '1', '1', None, 'yes'], {set(cores)})"
    assert not worker.alive


def test_a_worker_that_has_answered_rests(tmp_path: Path) -> None:
    """Whatever it did then, it would do in the turn of another, on the same core."""
    adapter(tmp_path, "large", setup="global many; many = [[] for _ in range(2_000_000)]")
    worker = Process(str(tmp_path / "large.py"), process.cores(1), 1, None, {}, 60)
    stat = Path("/proc", str(worker.pid), "stat")

    def ticks() -> int:
        return sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))  # of the CPU, user and system

    try:
        worker.ask("setup", family="gemm", case=str(SHAPE), form="u8s8")
        for request in ({"do": "turn", "seconds": 0.0}, {"do": "check", "to": str(tmp_path / "y.npy")}):
            worker.ask(**request)
            before = ticks()
            time.sleep(0.3)
            assert ticks() - before <= 1
    finally:
        worker.end()


def test_beside() -> None:
    before, taken = os.sched_getaffinity(0), process.cores(1)
    with process.beside(taken):
        assert os.sched_getaffinity(0) == (before - set(taken) or before)
    assert os.sched_getaffinity(0) == before


# ---- those that fail


@pytest.mark.usefixtures("quick")
def test_who_fails_is_named(tmp_path: Path) -> None:
    everything = dict.fromkeys(("u8s8", "dynamic", "static"), "an operation")
    run = measured(
        adapter(tmp_path, "good"),
        adapter(tmp_path, "off_by_one", after="y[0, 0] += 1"),
        adapter(tmp_path, "absent", packages=["no_such_package"]),
        adapter(tmp_path, "no_library", libraries=["libno_such_library.so"]),
        adapter(tmp_path, "refuses", setup="raise RuntimeError('not this\\nshape')"),
        adapter(tmp_path, "crashes", before="os.kill(os.getpid(), signal.SIGSEGV)", forms=everything),
        adapter(tmp_path, "later", before="if calls > 30: ctypes.CDLL(None).abort()"),
        adapter(tmp_path, "leaves", setup="import sys; print('farewell', file=sys.stderr); os._exit(3)"),
        adapter(tmp_path, "wrong", after="y = -y"),
        forms=("u8s8", "dynamic", "static"),
    )
    result = run["results"][0]
    assert [entry["peer"] for entry in result["entries"]] == ["pycompress", "good", "off_by_one"]
    assert [entry["differs"] for entry in result["entries"]] == [False, False, True]
    assert result["entries"][1]["error"] == 0
    assert 0 < result["entries"][2]["error"] < 0.01
    assert not reasons(run, "good")
    assert reasons(run, "absent") == ["not installed (no_such_package)"]
    assert reasons(run, "no_library") == ["not installed (libno_such_library.so)"]
    assert reasons(run, "refuses") == ["RuntimeError: not this shape"]
    assert reasons(run, "crashes") == ["crashed: SIGSEGV", "crashed: SIGSEGV", "given up: it died 2 times"]
    assert reasons(run, "later") == ["crashed: SIGABRT"]
    assert reasons(run, "leaves") == ["ended with code 3: farewell"]
    (reason,) = reasons(run, "wrong")
    assert reason.startswith("wrong result: its difference")

    table, *_ = report.tables(run)
    assert table.columns[5:] == [
        f"The {n}" for n in ("good", "off_by_one", "refuses", "crashes", "later", "leaves", "wrong")
    ]
    assert table.rows[0][7:] == ["failed"] * 5
    assert table.rows[0][6].endswith("*")
    notes = "\n".join(report.notes(run))
    assert "The absent: not measured: not installed (no_such_package).\n" in notes
    assert "The crashes, u8s8, 5x33x17: not measured: crashed: SIGSEGV.\n" in notes
    assert "* The off_by_one, u8s8: differs from the reference by up to " in notes
    assert 'pip install "pycompress-kernels[bench]" (or no_such_package' in notes


@pytest.mark.usefixtures("quick")
def test_who_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Process.ask

    def impatient(self: Process, do: str, **about: Any) -> dict[str, Any]:
        self.timeout = 0.5 if do == "setup" and self.name.endswith("hangs.py") else 60
        return ask(self, do, **about)

    monkeypatch.setattr(Process, "ask", impatient)
    run = measured(adapter(tmp_path, "hangs", before="time.sleep(1000)"), adapter(tmp_path, "good"))
    assert reasons(run, "hangs") == ["no answer within 0.5 s: ended"]
    assert [entry["peer"] for entry in run["results"][0]["entries"]] == ["pycompress", "good"]


@pytest.mark.usefixtures("quick")
def test_without_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even ours may fail, and is told of like any other."""
    start = versus.Side._start

    def fails(self: versus.Side) -> Process:
        if self.peer is None:
            raise PeerError("crashed: SIGILL")
        return start(self)

    monkeypatch.setattr(versus.Side, "_start", fails)
    run = measured(adapter(tmp_path, "good"))
    assert reasons(run, "pycompress") == ["does not start: crashed: SIGILL"]
    (entry,) = run["results"][0]["entries"]
    assert (entry["peer"], entry["ratio"], run["results"][0]["of_peak"]) == ("good", None, None)
    (table,) = report.tables(run)
    assert table.rows[0][1:5] == ["", "", "", ""]


@pytest.mark.usefixtures("quick")
def test_who_is_not_held_is_marked(tmp_path: Path) -> None:
    if _backend.NAME != "native":
        pytest.skip("about an instruction set that is forced; the backend is Numba")
    peers = [adapter(tmp_path, "obeys"), adapter(tmp_path, "does_not")]
    peers[1].caps = {}
    run = measured(*peers, isa="scalar")
    assert (run["isa"], run["capped"]) == ("scalar", True)
    assert [entry["held"] for entry in run["results"][0]["entries"]] == [True, True, False]
    assert run["results"][0]["best"] == "obeys"
    assert "† The does_not, u8s8: cannot be held to scalar; left out of the ratio." in list(report.notes(run))
    assert next(report.tables(run)).rows[0][6].endswith("†")
    assert not peers[0].obeys("scalar", "static")
    usable = pc.cpu_info()["isas"]
    assert versus.capped(usable[-1]) is None  # nobody has to be held to the best that there is
    assert versus.capped("scalar") == "scalar"


# ---- arithmetic


def test_ratio_by_pairs() -> None:
    assert versus.ratio([1, 1, 2, 1, 1], [2, 1, 6, 4, 5]) == {"median": 3, "low": 2, "high": 4}
    assert versus.ratio([2.0], [1.0]) == {"median": 0.5, "low": 0.5, "high": 0.5}


def entry(name: str, seconds: list[float], ratio: float | None, **more: Any) -> Any:
    found = None if ratio is None else {"median": ratio, "low": ratio - 0.01, "high": ratio + 0.01}
    about = {"peer": name, "operation": f"{name}_op", "seconds": seconds, "gmacs": 100 / seconds[0], "spread": 0.1}
    return about | {"error": 0.0, "differs": False, "held": True, "ratio": found} | more


def test_the_best_peer() -> None:
    entries = [entry("pycompress", [1.0], None), entry("a", [1.1], 1.1), entry("b", [0.5], 0.5, held=False)]
    assert versus.best(entries) == "a"
    assert versus.best([*entries, entry("c", [0.9], 0.9, differs=True)]) == "c"
    assert versus.best(entries[:1]) is None


def test_deviation() -> None:
    wanted = np.array([[3.0, -3.0], [3.0, -3.0]])
    assert versus.deviation(wanted, wanted) == 0
    assert versus.deviation(wanted + np.array([[0, 0.6], [0, 0]]), wanted) == pytest.approx(0.2)
    assert versus.deviation(np.zeros((2, 2)), np.zeros((2, 2))) == 0
    for got, reason in (
        (-wanted, "its difference from the reference"),
        (np.zeros((2, 2)), "its difference from the reference"),
        (wanted[:1], r"shape \(1, 2\), wanted \(2, 2\)"),
        (wanted * np.inf, "it holds NaN or infinity"),
        (wanted * np.nan, "it holds NaN or infinity"),
    ):
        with pytest.raises(PeerError, match=f"wrong result: {reason}"):
            versus.deviation(got, wanted)


@pytest.mark.parametrize("form", [form.name for form in gemm.FORMS])
def test_the_reference_is_what_ours_computes(form: str) -> None:
    operands, family = gemm.Operands.of(Shape(9, 70, 21)), gemm.FAMILY
    got = family.values(operands, form, np.asarray(family.ours(operands, form)()))
    assert versus.deviation(got, family.reference(operands, form)) <= family.form(form).tolerance
    bytes_moved = family.traffic(Shape(9, 70, 21), gemm.Form("", "", "int8", (1, 2, 4)))
    assert bytes_moved == 9 * 70 + 2 * 70 * 21 + 4 * 9 * 21


def test_int4_groups(rng: np.random.Generator) -> None:
    w = rng.standard_normal((6, 70)).astype(np.float32)
    w[2, :32] = 0
    q, scale = gemm.int4_groups(w, 32)
    assert q.shape == (6, 3, 32)
    assert scale.shape == (6, 3)
    assert scale[2, 0] == 1
    assert np.array_equal(abs(q).max(axis=2)[[0, 1, 3, 4, 5]], np.full((5, 3), 7))
    assert not q[:, 2, 6:].any()
    dense = (q * scale[..., None]).reshape(6, 96)[:, :70]
    assert (abs(dense - w) <= np.repeat(scale, 32, axis=1)[:, :70] * 0.5001).all()


# ---- what is shown


def made_up(cases: dict[str, float], name: str = "cpu", isa: str = "avx2") -> versus.Run:
    """A run of two forms, in which ours takes 1 s and the peer as long as `cases` say."""
    results = [
        {
            **{"case": case, "form": form, "macs": 1e11, "intensity": 10.0 * i + 1, "peak": 120.0, "of_peak": 0.83},
            "entries": [
                entry("pycompress", [1.0], None),
                entry("a", [seconds], seconds),
                entry("b", [9.0], 9.0, held=False),
            ],
            "best": "a",
        }
        for form in ("u8s8", "f32")
        for i, (case, seconds) in enumerate(cases.items())
    ]
    return {
        **{"pycompress": "0", "family": "gemm", "cpu": {"name": name}, "isa": isa, "capped": True, "threads": 1},
        **{"rounds": 3, "bandwidth": {"L2": 1e11, "DRAM": 1e10}, "results": results},
        "forms": {
            n: {"title": f"form {n}", "peak": p, "tolerance": 0} for n, p in (("u8s8", "int8"), ("f32", "float32"))
        },
        "peers": {n: {"title": f"Peer {n}", "packages": [n]} for n in "abc"},
        "versions": {"a": {"a": "1.2"}},
        "failures": [{"peer": "c", "case": None, "form": None, "reason": "not installed (c)"}],
    }


def test_the_table() -> None:
    run = made_up({"1x2x3": 1.25, "4x5x6": 0.5})
    first, second = report.tables(run)
    assert first.title == "u8s8: form u8s8"
    assert first.columns == ["case", "pycompress", "of peak", "ratio", "to the best peer", "Peer a", "Peer b"]
    assert first.rows[0] == ["1x2x3", "100.0", "83%", "1.25 (1.24-1.26)", "Peer a", "80.0", "11.1†"]
    assert second.rows[1][3:6] == ["0.50 (0.49-0.51)", "Peer a", "200.0"]
    assert report.title(run) == "cpu, all held to avx2, 1 thread, 3 rounds"
    notes = list(report.notes(run))
    assert "Instruction peak of one core, highest seen, in GMAC/s: int8 120, float32 120." in notes
    assert "Peer a (a 1.2): u8s8, f32 are a_op." in notes
    assert "Peer c: not measured: not installed (c)." in notes
    text = report.markdown(run)
    assert "| 1x2x3 | 100.0 | 83% | 1.25 (1.24-1.26) | Peer a | 80.0 | 11.1† |\n" in text
    assert text.count(f"|{' --- |' * 7}\n") == 2


def test_merge() -> None:
    one, two = made_up({"1x2x3": 1.25, "4x5x6": 0.5}), made_up({"4x5x6": 0.75, "7x8x9": 2.0})
    merged = report.merge([one, two])
    found = {(r["case"], r["form"]): r["entries"][1]["seconds"][0] for r in merged["results"]}
    wanted = {"1x2x3": 1.25, "4x5x6": 0.75, "7x8x9": 2.0}
    assert found == {(case, form): seconds for form in ("u8s8", "f32") for case, seconds in wanted.items()}
    assert merged["failures"] == one["failures"]
    for table in report.tables(merged):
        assert [row[0] for row in table.rows] == list(wanted)
    assert report.merge([one]) == one
    with pytest.raises(ValueError, match="isa is 'scalar' in one file and 'avx2' in another"):
        report.merge([one, made_up({}, isa="scalar")])
    with pytest.raises(ValueError, match="one file is of other, another of cpu"):
        report.merge([one, made_up({}, name="other")])


def test_pasting_a_table_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n", encoding="utf-8")

    def paste(name: str, text: str) -> subprocess.CompletedProcess[str]:
        tool = Path(__file__).parents[1] / "tools" / "paste.py"
        return subprocess.run([sys.executable, tool, page, name], input=text, capture_output=True, text=True)

    for text in ("first", "new\n\n| table |\n"):
        assert paste("a", text).returncode == 0
    wanted = "before\n<!-- a -->\n\nnew\n\n| table |\n\n<!-- end of a -->\nafter\n"
    assert page.read_text(encoding="utf-8") == wanted
    for name, text, reason in (("b", "x", "the page has no place for it"), ("a", " ", "nothing came from stdin")):
        done = paste(name, text)
        assert done.returncode == 1
        assert reason in done.stderr
        assert page.read_text(encoding="utf-8") == wanted


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    run = made_up({f"{i}x2x3": 1 + i / 4 for i in range(6)})
    report.plot(run, str(tmp_path / "roofline.png"))
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG\r\n")
    figure = report.figure(run)
    try:
        texts = "\n".join(text.get_text() for text in figure.findobj(plt.Text))
    finally:
        plt.close(figure)
    for wanted in (
        "pycompress",
        "Peer a",
        "Peer c: not installed (c)",
        "Peer b, u8s8, f32: not held to avx2, not drawn",
    ):
        assert wanted in texts
    for wanted in ("int8 peak 120 GMAC/s", "float32 peak 120 GMAC/s", "DRAM 10 GB/s", "form f32", "5x2x3"):
        assert wanted in texts


@pytest.mark.usefixtures("quick")
def test_the_command(tmp_path: Path) -> None:
    adapter(tmp_path, "good", forms=dict.fromkeys(("u8s8",), "an operation"))
    adapter(tmp_path, "absent", packages=["no_such_package"])
    measure = (
        "gemm",
        "--peer",
        tmp_path / "good.py",
        "--peer",
        tmp_path / "absent.py",
        "--shape",
        SHAPE,
        "--rounds",
        2,
    )
    result = invoke(*measure, "--form", "u8s8", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found) == [
        *("pycompress", "family", "cpu", "isa", "capped", "threads", "rounds", "bandwidth", "forms", "peers"),
        *("versions", "results", "failures"),
    ]
    (row,) = found["results"]
    assert row.keys() == versus.Result.__annotations__.keys()
    assert (row["case"], row["form"], row["macs"], row["best"]) == ("5x33x17", "u8s8", 5 * 33 * 17, "good")
    assert row["intensity"] == 5 * 33 * 17 / (5 * 33 + 33 * 17 + 4 * 5 * 17)
    assert (row["peak"] or 0) > 0 if _backend.NAME == "native" else row["peak"] is None
    ours, good = row["entries"]
    for one in row["entries"]:
        assert one.keys() == versus.Entry.__annotations__.keys()
        assert len(one["seconds"]) == 2
        assert one["gmacs"] > 0
    pairs = sorted(theirs / our for our, theirs in zip(ours["seconds"], good["seconds"], strict=True))
    assert good["ratio"]["median"] == pytest.approx(sum(pairs) / 2)
    assert pairs[0] <= good["ratio"]["low"] <= good["ratio"]["high"] <= pairs[1]
    assert ours["ratio"] is None
    (failure,) = found["failures"]
    assert failure == {"peer": "absent", "case": None, "form": None, "reason": "not installed (no_such_package)"}

    path = tmp_path / "found.json"
    path.write_text(result.stdout, encoding="utf-8")
    result = invoke("report", path)
    assert result.exit_code == 0, result.output
    for text in ("u8s8: u8 s8 -> s32", "The good", "5x33x17", "The absent: not measured: not installed"):
        assert text in result.stdout
    assert "| 5x33x17 |" in invoke("report", path, "--markdown").stdout
    assert json.loads(invoke("report", path, path, "--json").stdout) == found


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("", encoding="utf-8")
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    for arguments, wanted in (
        (("gemm", "--peer", "nobody"), "there is no peer 'nobody'; there are numpy, torch_float32, "),
        (("gemm", "--peer", tmp_path / "none.py"), "there is no file "),
        (("gemm", "--peer", tmp_path / "empty.py"), "holds no PEER"),
        (("gemm", "--peer", "numpy", "--form", "s7"), "there is no form 's7'; gemm has u8s8, dynamic, "),
        (("gemm", "--form", "s7"), "there is no form 's7'"),
        (("gemm", "--peer", "numpy", "--isa", "sse9"), "--isa: 'sse9' can't be forced here"),
        (("gemm", "--peer", "numpy", "--threads", 4096), "threads is 4096, wanted at most "),
        (("gemm", "--peer", "numpy", "--plot", tmp_path / "no" / "a.png"), "--plot: there is no directory "),
        (("gemm", "--markdown"), "wanted --peers or --peer with them"),
        (("report", tmp_path / "none.json"), "No such file"),
        (("report", tmp_path / "other.json"), "a file is no output of "),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 1, arguments
        assert wanted in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else real(name, *more)
    )
    result = invoke("gemm", "--peer", "numpy", "--plot", "a.png")
    assert result.stderr == 'error: --plot needs matplotlib: pip install "pycompress-kernels[bench]"\n'


# ---- the bundled adapters


def test_bundled_adapters() -> None:
    found = [peer.load(name) for name in peer.names()]
    assert [one.name for one in found] == peer.names()
    assert len({one.title for one in found}) == len(found)
    known = {form.name for form in gemm.FORMS} | {"f16", "int4_32", "int4_128"}
    for one in found:
        assert one.packages or one.name == "pycompress_dense"
        assert one.served
        assert set(one.served.get("gemm", {})) <= known
        assert one.served.keys() == one.setups.keys()
    directory = Path(importlib.util.find_spec("pycompress.peers").submodule_search_locations[0])  # type: ignore
    files = {path.stem for path in directory.glob("*.py")} | {
        path.stem for path in Path(report.__file__).parents[2].glob("bench/peers/*.py")
    }
    assert {name for name in files if not name.startswith("_")} == set(peer.names())


@pytest.mark.parametrize("name", [name for name in peer.names() if "gemm" in peer.load(name).served])
def test_an_adapter_computes_the_product(name: str, tmp_path: Path) -> None:
    """In a worker, since libraries disturb one another; only what is installed."""
    about = peer.load(name)
    for package in about.packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    for library in about.libraries:
        try:
            ctypes.CDLL(library)
        except OSError:
            pytest.skip(f"{library} is not installed")
    case = Shape(9, 70, 21)
    operands, path = gemm.Operands.of(case), tmp_path / "y.npy"
    worker = Process(name, process.cores(1), 1, None, {}, 100)
    try:
        for form in about.served["gemm"]:
            worker.ask("setup", family="gemm", case=str(case), form=form)
            worker.ask("check", to=str(path))
            error = versus.deviation(
                gemm.FAMILY.values(operands, form, np.load(path)), gemm.FAMILY.reference(operands, form)
            )
            # Not every CPU has an exact int8 product for everyone, and then "differs" is what a report says.
            assert error < 0.7, form
    finally:
        worker.end()
