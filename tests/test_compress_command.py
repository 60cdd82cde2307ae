"""`pycompress compress` and `inspect`: what they print, write and refuse; the page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

import pycompress as pc
from pycompress import inspection
from pycompress.cli import app
from pycompress.pipeline import page
from pycompress.report import Candidate, Layer, Report, size


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def tensors() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.standard_normal((24, 32)).astype(np.float32),
        "b.weight": rng.standard_normal((16, 24)).astype(np.float32),
        "b.bias": np.zeros(16, np.float32),
        "word_embeddings.weight": rng.standard_normal((9, 32)).astype(np.float32),
    }


@pytest.fixture
def model(tmp_path: Any) -> Any:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(tensors(), path)
    return path


def test_compress_prints_a_table(model: Any, tmp_path: Any) -> None:
    result = invoke("compress", model, "-o", tmp_path / "small.safetensors")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (row,) = [line.split() for line in lines if "a.weight" in line]
    assert row[:4] == ["a.weight", "linear", "24x32", "int8"]
    assert row[4:8] == ["3.07", "kB", "864", "B"]
    assert re.fullmatch(r"0\.\d\d%", row[8])
    assert re.fullmatch(r"\d+\.\d\dx", row[9])
    assert "and 1 other tensors, 64 B, as they were." in lines
    assert any(line.startswith("products of 128 rows with these layers: ") for line in lines)
    made = pc.load(tmp_path / "small.safetensors")
    np.testing.assert_array_equal(made["a.weight"].q, pc.Int8Weight.from_float(tensors()["a.weight"]).q)


def test_compress_as_json(model: Any, tmp_path: Any) -> None:
    output = tmp_path / "o"
    result = invoke(
        "compress", model, "-o", output, "--recipe", "lowrank-int8", "--set", "rank=4", "--json", "--no-speed"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["output"] == str(output)
    assert found["recipe"] == "lowrank-int8"
    assert found["totals"]["nbytes_before"] == sum(a.nbytes for a in tensors().values())
    rows = {row["name"]: row for row in found["layers"]}
    assert rows["a.weight"]["label"] == "rank 4 int8"
    assert rows["a.weight"]["seconds"] is None
    assert (
        Report.from_dict({k: v for k, v in found.items() if k not in ("model", "output")}) == pc.load(output).report()
    )


def test_compress_by_a_file_with_calibration_and_measured(model: Any, tmp_path: Any) -> None:
    (tmp_path / "r.toml").write_text('batch = 4\n[[rule]]\nname = "a.*"\nfactorize = {rank = 3}\n')
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", **{"a.weight": rng.standard_normal((40, 32)).astype(np.float32)})
    options = ("--recipe", tmp_path / "r.toml", "--calibration", tmp_path / "x.npz", "--threads", "1", "--jobs", 2)
    result = invoke("compress", model, "-o", tmp_path / "o", *options, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["batch"], found["threads"], found["recipe"]) == (4, 1, "r")
    rows = {row["name"]: row for row in found["layers"]}
    assert rows["a.weight"]["error_of"] == "outputs"
    assert rows["a.weight"]["seconds"] > 0
    assert rows["b.weight"]["label"] == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "int9"), "recipe is 'int9', wanted a TOML file or one of int8"),
        (("--recipe", "missing.toml"), "missing.toml: No such file"),
        (("--recipe", "bad.toml"), "bad.toml, line 2: quantise is no known key"),
        (("--set", "sparsity"), "--set sparsity: wanted KEY=VALUE"),
        (("--set", "sparsity=0.5"), "preset.sparsity is no known key"),
        (("--recipe", "sparse-int8", "--set", "sparsity=2"), "preset.sparsity is 2, wanted 0 to 1"),
        (("--recipe", "bad.toml", "--set", "x=1"), "--set is for presets"),
        (("--calibration", "missing.npz"), "missing.npz: No such file"),
        (("--calibration", "bad.toml"), "bad.toml: a header of"),
        (("--report", "none/page.html"), "--report: no page can be written"),
        (("-o", "none/o"), "output is 'none/o', wanted a file in a directory that exists"),
        (("-o", "model.safetensors"), "which is the model itself"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: Any, message: str, model: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(model.parent)
    (model.parent / "bad.toml").write_text("batch = 3\nquantise = 8\n")
    before = sorted(os.listdir())
    result = invoke("compress", model.name, "-o", "o", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_ctrl_c_is_told(model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pycompress.pipeline.compress_file", interrupted)
    result = invoke("compress", model, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert "error: Interrupted. The same command takes up where it stopped." in result.stderr


def test_the_bar_is_on_stderr_and_help_is_light(model: Any, tmp_path: Any) -> None:
    code = "from _pycompress_command import main; main()"
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        code,
        "compress",
        str(model),
        "-o",
        str(tmp_path / "o"),
        "--no-speed",
    ]
    done = subprocess.run(
        command, env=os.environ | {"FORCE_COLOR": "1"}, capture_output=True, text=True, timeout=120, check=True
    )
    assert "converting" in done.stderr
    assert "converting" not in done.stdout
    light = "import sys; from pycompress.cli import app\ntry: app(['compress', '--help'])\nexcept SystemExit: pass\n"
    light += "print([n for n in ('numba', 'onnx', 'gguf', 'distributed', 'pycompress.pipeline') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- inspect


def test_inspect_a_compressed_file(model: Any, tmp_path: Any) -> None:
    invoke("compress", model, "-o", tmp_path / "o.safetensors", "--no-speed")
    result = invoke("inspect", tmp_path / "o.safetensors")
    assert result.exit_code == 0, result.output
    assert "o.safetensors: safetensors, compressed, schema 1" in result.stdout
    (row,) = [line.split() for line in result.stdout.splitlines() if " a.weight" in line]
    assert row[1:3] == ["Int8Weight", "24x32"]
    assert any("Int8Weight: 2 tensors" in line for line in result.stdout.splitlines())
    found = json.loads(invoke("inspect", tmp_path / "o.safetensors", "--json", "--name", "a.*").stdout)
    assert found["version"] == 1
    (row,) = found["tensors"]
    assert row["parts"] == {"q": {"dtype": "I8", "shape": [24, 32]}, "scale": {"dtype": "F32", "shape": [24]}}
    dense = pc.Int8Weight.from_float(tensors()["a.weight"]).todense()
    assert row["statistics"]["max"] == float(dense.max())
    assert sum(row["statistics"]["histogram"]) == dense.size


def test_inspect_others(model: Any, tmp_path: Any) -> None:
    np.savez(tmp_path / "m.npz", **tensors(), x=np.array([np.nan, np.inf, 1, 3, 0], np.float32), e=np.empty((0, 2)))
    found = json.loads(invoke("inspect", tmp_path / "m.npz", "--json").stdout)
    assert (found["format"], found["version"]) == ("npz", None)
    rows = {row["name"]: row for row in found["tensors"]}
    x = rows["x"]["statistics"]
    assert (x["min"], x["max"], x["zeros"], x["finite"]) == (0, 3, 0.2, 0.6)
    assert x["mean"] == pytest.approx(4 / 3)
    assert x["std"] == pytest.approx(np.std([1, 3, 0]))
    assert rows["e"]["statistics"] is None
    assert "24x32" in invoke("inspect", tmp_path / "m.npz").stdout
    plain = json.loads(invoke("inspect", model, "--json", "--no-stats").stdout)
    assert {row["statistics"] for row in plain["tensors"]} == {None}


def test_inspect_refuses_what_is_broken(model: Any, tmp_path: Any) -> None:
    path = tmp_path / "o"
    invoke("compress", model, "-o", path, "--no-speed")
    data = bytearray(path.read_bytes())
    start = pc.io.safetensors.File(path).entries["a.weight/scale"].start
    data[start : start + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    result = invoke("inspect", path)
    assert result.exit_code == 1
    assert "'a.weight' is no Int8Weight: scale[0] is nan" in result.stderr
    assert invoke("inspect", path, "--name", "b.*").exit_code == 0
    path.write_bytes(data[:100])
    assert invoke("inspect", path).exit_code == 1
    assert invoke("inspect", tmp_path / "none").exit_code == 1


def test_statistics() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3, 1 << 20)).astype(np.float32)
    found = inspection.statistics(a)
    assert found is not None
    assert found.mean == pytest.approx(a.mean(dtype=float), abs=1e-6)
    assert found.std == pytest.approx(a.std(dtype=float), rel=1e-6)
    counts = np.histogram(a.astype(float), inspection.BINS, (a.min(), a.max()))[0]
    assert np.abs(np.array(found.histogram) - counts).max() <= 2
    for extreme in (np.array([1e308, -1e308]), np.array([5e-324, 0]), np.array([7]), np.array([True, False])):
        found = inspection.statistics(extreme)
        assert found is not None
        assert sum(found.histogram) == extreme.size
        assert np.isfinite([found.mean, found.std]).all()


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (84e6, "84 MB"), (5e15, "5e+03 TB")]
)
def test_sizes(n: float, text: str) -> None:
    assert size(n) == text


# ---- the page


class Parser(HTMLParser):
    """Checks that tags are closed in order, and collects what a page could load."""

    EMPTY = ("meta", "br", "line", "circle", "rect", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "onclick")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Parser:
    parser = Parser()
    parser.feed(text)
    parser.close()
    assert not parser.open
    assert not parser.loads
    assert not {"script", "link", "img", "iframe"} & parser.count.keys()
    return parser


def searched() -> Report:
    candidates = (Candidate("int8", 300, 0.01, 5e-5), Candidate("rank 8 int8", 100, 0.2, 2e-5))
    rows = (
        Layer("<b>&\"'.weight", "linear", (8, 8), "int8", 1000, 300, 0.01, None, 1e-4, 5e-5, candidates=candidates),
        Layer(
            "kept.weight",
            "linear",
            (8, 8),
            "float32",
            1000,
            1000,
            0.0,
            None,
            1e-4,
            1e-4,
            note="nothing <is> faster",
            candidates=candidates,
        ),
        Layer("bias", "other", (8,), "float32", 32, 32),
    )
    return Report(rows, "auto", 128, 2, "a <CPU>", 0.05, ((2e-4, 0.0), (1.5e-4, 0.01)))


def test_the_page_is_whole_and_loads_nothing() -> None:
    text = page.html(searched(), model="m <1>", file_bytes=2000)
    found = parsed(text)
    assert found.count["svg"] == 4
    assert "<b>&amp;" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "m &lt;1&gt;" in text
    assert "1.53x smaller" in text
    assert "1.33x as fast" in text
    assert "budget 5.00%" in text
    assert text.count("<tr>") == 4
    # two rows on two plots, with the candidates that were not taken, and the path of the search
    assert found.count["circle"] >= 2 * (2 + 3) + 2


@pytest.mark.parametrize(
    "report",
    [
        Report(),
        Report((Layer("x", "other", (0, 2), "int64", 0, 0),)),
        Report((Layer("x", "linear", (2, 2), "int8", 16, 12, 0.0, "weight"),)),
        Report((Layer("x", "linear", (2, 2), "int8", 16, 12, 1e-30, "weight", 1e-9, 1e-3),)),
        Report(tuple(Layer(f"{i}", "linear", (2, 2), "int4", 16 + i, 12, 0.5**i, "weight") for i in range(40))),
    ],
)
def test_pages_of_odd_reports(report: Report) -> None:
    text = page.html(report, model="m", file_bytes=0)
    parsed(text)
    assert "nan" not in re.sub(r"<title>.*?</title>", "", text).lower()


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_page_in_a_browser(model: Any, tmp_path: Any) -> None:
    target = tmp_path / "report.html"
    result = invoke("compress", model, "-o", tmp_path / "o", "--report", target)
    assert result.exit_code == 0, result.output
    assert str(target) in result.stdout.replace("\n", "")
    parsed(target.read_text("utf-8"))
    picture = tmp_path / "page.png"
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    options += ["--window-size=1200,1000", f"--screenshot={picture}", f"file://{target}"]
    done = subprocess.run([str(CHROMIUM), *options], capture_output=True, text=True, timeout=300, check=False)
    assert picture.exists(), done.stderr[-2000:]
    image = pytest.importorskip("matplotlib.image").imread(picture)[..., :3]
    assert image.shape[:2] == (1000, 1200)
    assert (image.mean(axis=(0, 1)) > 0.5).all()  # a light page
    blue = (image[..., 2] > 0.6) & (image[..., 0] < 0.2)  # the points and bars of int8
    assert blue[250:].sum() > 500
    assert (image[:120] < 0.4).any()  # a title
