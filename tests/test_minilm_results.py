"""examples/minilm_results.py: its data, its choice of rows, and its page; and the whole command on a small model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
data = pytest.importorskip("minilm_data")
results = pytest.importorskip("minilm_results")


def test_data_is_read_and_shared_out(tmp_path: Path) -> None:
    rows = "".join(f"{'ab'[i % 10 == 0]}\ttext {i}\n" for i in range(50))
    (tmp_path / "reuters-r8-train.tab").write_text(f"Category\tText\nd\tstring\nclass\t\n\n{rows}", "utf-8")
    texts, labels = data.load(tmp_path, "train")
    assert texts == [f"text {i}" for i in range(50)]
    assert (labels == "b").sum() == 5
    chosen = data.stratified(labels, 20, 1)
    assert (labels[chosen] == "b").sum() == 2
    assert (labels[chosen] == "a").sum() == 18
    assert (np.diff(chosen) > 0).all()
    assert (data.stratified(labels, 20, 2) != chosen).any()
    assert (labels[data.stratified(labels, 3, 1)] == "b").sum() == 1  # none is left out


def test_rows_are_told_apart() -> None:
    rows = results.rows(False)
    assert len({row.key for row in rows}) == len(rows)
    names = {row.name for row in rows if row.part == "presets"}
    assert names == {"fp16", "int8", "int4", "sparse-int8", "lowrank-int8", "auto"}
    for part, count in ("sparse-int8", len(results.SPARSITIES)), ("lowrank-int8", len(results.RANKS)):
        assert [sum(r.part == part and r.calibrated == c for r in rows) for c in (True, False)] == [count, count]


def found() -> dict[str, Any]:
    """Results as the command has them: pruning loses 1 point at 60 % when calibrated, at 50 % when not."""
    rows = []
    for row in results.rows(False):
        at = 1 - row.at / 384 if row.part == "lowrank-int8" else row.at
        lost = max(0.0, at - (0.5 if row.calibrated else 0.4)) / 10 if row.part != "presets" else 0.001
        speed = {"rate": 100 * (2 + at), "speed": 2 + at}
        rows.append(
            {
                "name": row.name,
                "part": row.part,
                "at": row.at,
                "calibrated": row.calibrated,
                "bytes": round(1e7 * (1.1 - at)),
                "accuracy": 0.96 - lost,
                "lost": lost,
                "deviation": 0.002,
                "forms": ["int8", "rank 64 int8"],
                "avx512vnni": speed,
                "avx2": {"rate": 50.0, "speed": 1.5},
            }
        )
    return {
        "float32": {"bytes": 42467328, "accuracy": {"presets": 0.96, "curves": 0.95}},
        "rows": rows,
        "rates": {"avx512vnni": 100.0, "avx2": 50.0},
        "texts": {"train": 5485, "test": 2189, "curves": 1000},
        "cpu": {"name": "a CPU"},
    }


def test_the_furthest_point_within_one_point() -> None:
    for calibrated, name in (True, "60% zeros"), (False, "50% zeros"):
        assert results.most(found(), "sparse-int8", calibrated)["name"] == name
    bad = found()
    for row in bad["rows"]:
        row["lost"] = 0.02 if row["name"] == "50% zeros" else 0.0
    assert results.most(bad, "sparse-int8", True) is None  # what comes behind a point that is worse does not count


def test_page_and_picture(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    page = results.page(found(), picture)
    assert "| float32 | 42.5 | 100 | 50 | 96.00% | |" in page
    assert "| int8 | 11.0 | 200 (2.00 x) | 50 (1.50 x) | 95.90% | -0.10 ± 0.20 |" in page
    assert "`auto` took: int8, int8 of rank 64 to 64." in page
    assert "| sparse-int8 | 60% zeros, 2.60 x float32 | 50% zeros, 2.50 x float32 |" in page
    for table in page.split("\n\n"):
        lines = table.splitlines()
        if lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1
    results.draw(found(), picture)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    json.dumps(found())
