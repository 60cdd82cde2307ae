"""A ladder from a convolutional network down to one many times smaller: distilled, factorized, pruned, quantized.

    pip install "pycompress-kernels[torch,demo]" scikit-learn
    python examples/ladder.py [--quick] [--json] [--markdown] [--plot ladder.png]

Each network is trained in PyTorch, written to one file, read from it again, and run by the kernels of pycompress: that
is what the accuracy and the time are of. Rows are means over seeds. Takes some ten minutes on two cores.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Annotated, Any

import ladder_train as train
import numpy as np
import torch
import typer
from ladder_deploy import Network, Step, Tensors, of_float, of_integers, save, stored
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import pycompress as pc
from pycompress import qat

ROWS = {
    "teacher": "teacher",
    "separable": "teacher, factorized: depthwise-separable by SVD",
    "alone": "student alone",
    "response": "student, distilled from responses",
    "feature": "student, distilled from features",
    "relation": "student, distilled from relations",
    "all": "student, distilled from all three (S)",
    "low_rank": "S factorized: low rank",
    "unstructured": "S pruned, unstructured: 80 % zeros, CSR",
    "block": "S pruned, blocks of 16 x 1: 60 % zeros, BSR",
    "channel": "S pruned, channels: 64 to 48, 128 to 80",
    "dynamic": "S int8, dynamic",
    "static": "S int8, static",
    "static4": "S 4-bit weights, static",
    "qat": "S int8, QAT",
    "qat4": "S 4-bit weights, QAT",
    "everything": "S factorized, pruned in blocks, 4-bit QAT",
}


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How often all is trained.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, some steps each: only whether all works.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="A directory in which all stays; what is there is not trained again.")
    ] = None,
    time_only: Annotated[bool, typer.Option("--time-only", help="Train nothing; measure what is in --keep.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of timing, in which all rows take turns.")] = 25,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the results as the page has them.")] = False,
    plot: Annotated[Path | None, typer.Option(help="A PNG of accuracy over bytes and time.")] = None,
) -> None:
    """Train, compress and measure."""
    if time_only and keep is None:
        raise typer.BadParameter("--time-only measures what an earlier run left in --keep")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) if keep is None else keep
        place.mkdir(parents=True, exist_ok=True)
        if time_only:
            results = json.loads((place / "ladder.json").read_text(encoding="utf-8"))
        else:
            results = trained(place, 1 if quick else seeds, quick)
        measured(place, results, min(rounds, 3) if quick else rounds)
        (place / "ladder.json").write_text(json.dumps(results), encoding="utf-8")
    if plot is not None:
        draw(results, plot)
    if as_json:
        print(json.dumps(results))
    elif markdown:
        print(page(results))
    else:
        show(results)


# ---- training, one process for each seed


def trained(place: Path, seeds: int, quick: bool) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    workers = min(seeds, len(os.sched_getaffinity(0)))
    wanted = [seed for seed in range(seeds) if not (place / f"seed-{seed}.json").exists()]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with context.Manager() as manager, Progress(*columns, console=Console(stderr=True)) as progress:
        told = manager.Queue()
        shown = progress.add_task("training", total=len(wanted) * len(ROWS))
        with ProcessPoolExecutor(workers, context) as pool:
            jobs = [pool.submit(climb, seed, quick, str(place), told) for seed in wanted]
            running = bool(jobs)
            while running:
                running = bool(wait(jobs, timeout=0.3).not_done) and not any(j.done() and j.exception() for j in jobs)
                while not told.empty():
                    progress.update(shown, advance=1, description=f"trained: {told.get()}")
            for job in jobs:
                job.result()
    climbs = [json.loads((place / f"seed-{seed}.json").read_text(encoding="utf-8")) for seed in range(seeds)]
    rows = {}
    for key, label in ROWS.items():
        of_seeds = [rows_of_seed[key] for rows_of_seed in climbs]
        rows[key] = {"label": label, "steps": of_seeds[0]["steps"], "parameters": of_seeds[0]["parameters"]} | {
            name: [one[name] for one in of_seeds] for name in ("accuracy", "validation", "bytes")
        }
    return {"rows": rows, "seeds": seeds}


def climb(seed: int, quick: bool, place: str, told: Any) -> None:
    """All rows of one seed, into a file."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    long, short = (12, 6) if quick else (600, 250)
    task = train.Task.load(seed, 1 if quick else 6)
    rows: dict[str, Any] = {}

    def done(key: str, network: tuple[list[Step], Tensors], model: Any = None) -> None:
        rows[key] = deployed(network, Path(place) / f"{key}-{seed}.safetensors", task, model)
        told.put(f"{ROWS[key]}, seed {seed}")

    def floating(key: str, model: Any, **options: Any) -> None:
        done(key, of_float(model, **options), model)

    def students() -> Any:
        torch.manual_seed(1000 + seed)  # they all begin with the same weights
        return train.student()

    def tuned(model: Any, steps: int = short, rate: float = 1e-3, after: Any = None) -> Any:
        return train.distilled(task, model, teacher, train.RESPONSE, steps, 5000 + seed, rate, after)

    teacher = train.with_labels(task, train.teacher(), long, 2000 + seed, -1)
    floating("teacher", teacher)
    floating("separable", tuned(train.separable(teacher), short, 2e-3))
    floating("alone", train.with_labels(task, students(), long, 3000 + seed, train.BATCH))
    kinds = {"response": train.RESPONSE, "feature": train.feature(), "relation": train.RELATION}
    kinds["all"] = [*train.RESPONSE, *train.feature(), *train.RELATION]
    for key, terms in kinds.items():
        small = train.distilled(task, students(), teacher, terms, long, 4000 + seed)
        floating(key, small)

    low_rank = tuned(train.low_rank(small))
    floating("low_rank", low_rank)
    for key, sparsity, block in (("unstructured", 0.8, (1, 1)), ("block", 0.6, (16, 1))):
        model = train.copy.deepcopy(small)
        pruner = train.pruner(model, sparsity, key, short)
        tuned(model, after=pruner.step)
        pruner.finish()
        floating(key, model, sparse=block)

    floating("channel", tuned(train.narrower(small, 0.375)))

    done("dynamic", of_float(small, int8=True))
    for bits, names in ((8, ("static", "qat")), (4, ("static4", "qat4"))):
        model = train.prepared(task, small, bits, 6000 + seed)
        for key in names:
            if key.startswith("qat"):
                tuned(model)
            network = qat.convert(model)
            done(key, of_integers(network, bits), network)
    model = train.prepared(task, low_rank, 4, 6000 + seed)
    pruner = train.pruner(model, 0.5, "block", 2 * short, 32)
    tuned(model, 2 * short, after=pruner.step)
    pruner.finish()
    network = qat.convert(model)
    done("everything", of_integers(network, 4), network)
    (Path(place) / f"seed-{seed}.json").write_text(json.dumps(rows), encoding="utf-8")


def deployed(network: tuple[list[Step], Tensors], path: Path, task: train.Task, model: Any) -> dict[str, Any]:
    """A row: the network written to a file, read from it, and run."""
    steps, tensors = network
    size = save(tensors, path)
    run = Network(steps, pc.load(path))
    if model is not None:
        x = task.validation[0][:50]
        with torch.no_grad():
            got, wanted = run(nhwc(x)), model(x).numpy()
        same = isinstance(model, torch.fx.GraphModule)  # what `convert` made runs the same kernels: to the bit
        assert np.array_equal(got, wanted) if same else np.allclose(got, wanted, 1e-3, 1e-3), (
            f"{path} is another network"
        )
    right = {}
    for name in ("validation", "test"):
        x, y = getattr(task, name)
        guess = np.concatenate([run(nhwc(part)).argmax(1) for part in x.split(50)])
        right[name] = 100 * float(np.mean(guess == y.numpy()))
    return {
        "accuracy": right["test"], "validation": right["validation"], "bytes": size, "parameters": stored(tensors),
        "steps": steps,
    }  # fmt: skip


def nhwc(x: torch.Tensor) -> Any:
    return np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))


# ---- timing, and what is shown


def measured(place: Path, results: dict[str, Any], rounds: int) -> None:
    """Microseconds for an image, alone and in batches of 64, on one core: medians over rounds, first seed's files."""
    networks = {k: Network(r["steps"], pc.load(place / f"{k}-0.safetensors")) for k, r in results["rows"].items()}
    images = nhwc(train.Task.load(0, 1).test[0])
    taken: dict[tuple[str, int], list[float]] = {}
    for size, repeat in ((1, 20), (64, 2)):
        x = np.ascontiguousarray(images[:size])
        for i in range(rounds + 1):
            for key, run in networks.items():
                begin = time.perf_counter()
                for _ in range(repeat):
                    run(x)
                if i:  # the first packs
                    taken.setdefault((key, size), []).append((time.perf_counter() - begin) / repeat / size * 1e6)
    for key, row in results["rows"].items():
        row["us"], row["us_64"] = (statistics.median(taken[key, size]) for size in (1, 64))
    results["isa"] = pc.cpu_info()["isa"]


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


HEAD = ["", "network", "accuracy, %", "parameters", "bytes", "smaller", "us, one image", "us, of 64"]


def lines(results: dict[str, Any]) -> list[list[str]]:
    first = statistics.mean(results["rows"]["teacher"]["bytes"])
    out = []
    for i, row in enumerate(results["rows"].values(), 1):
        size = statistics.mean(row["bytes"])
        accuracy = f"{statistics.mean(row['accuracy']):.2f} ± {spread(row['accuracy']):.2f}"
        out.append([
            str(i), row["label"], accuracy, f"{row['parameters']:,}", f"{size:,.0f}", f"{first / size:.1f} x",
            f"{row['us']:.1f}", f"{row['us_64']:.2f}",
        ])  # fmt: skip
    return out


def show(results: dict[str, Any]) -> None:
    table = Table(box=SIMPLE_HEAD)
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="left" if i == 1 else "right")
    for line in lines(results):
        table.add_row(*line)
    console = Console()
    console.print(table)
    console.print(f"{results['seeds']} seeds; times with {results['isa']}, one core")


def page(results: dict[str, Any]) -> str:
    rows = [HEAD, ["---"] * len(HEAD), *lines(results)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = f"Mean and standard deviation of {results['seeds']} seeds. Times: {results['isa']}, one core, medians."
    return f"{table}\n\n{notes}"


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5.5), sharey=True)
    rows = list(results["rows"].values())
    colors = pyplot.get_cmap("tab20")
    for axis, name, label in zip(
        axes, ("bytes", "us_64"), ("bytes of the file", "microseconds for an image, of 64"), strict=True
    ):
        for i, row in enumerate(rows):
            x, y = float(np.mean(row[name])), statistics.mean(row["accuracy"])
            axis.errorbar(
                x, y, spread(row["accuracy"]), marker="o", color=colors(i), capsize=3, label=f"{i + 1} {row['label']}"
            )
            axis.annotate(str(i + 1), (x, y), (4, 4), textcoords="offset points", fontsize=9)
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    typer.run(main)
