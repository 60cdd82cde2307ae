"""The comparison: the same sentences embedded with float32 weights and under each preset, on one core and on all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import pycompress as pc
from pycompress.recipe import Recipe, Rule

from . import minilm
from .minilm import Batch, Encoder

Floats = NDArray[np.float32]
Step = Callable[[int], None]  # told how many more sentences have been embedded

PRESETS = ("fp16", "int8", "int4", "sparse-int8", "lowrank-int8")
KINDS = ("float32", *PRESETS, "auto")
BATCH_TOKENS = 256  # all kinds are fastest about here: the kernels have work enough, and activations stay in the cache
NEIGHBOURS = 10
CALIBRATION = 64  # sentences, others than those that are compared


@dataclass
class Speed:
    """What one kind of weights needs: bytes, and seconds for all sentences."""

    linear_bytes: int
    linear_seconds: float  # in the linear layers, on one core
    one_core_seconds: float
    all_cores_seconds: float


@dataclass
class Closeness:
    """How near the embeddings of a kind are to those of float32; `cosines` [sentences], each to its float32 one."""

    cosines: Floats = field(repr=False)
    top1: float  # part of the sentences whose nearest neighbour is the same
    overlap: float  # mean part of the nearest `neighbours` that are the same

    def as_dict(self, neighbours: int) -> dict[str, Any]:
        """For `--json`."""
        return {
            "cosine": {"mean": float(self.cosines.mean()), "worst": float(self.cosines.min())},
            "neighbours": {"top1": self.top1, "overlap": self.overlap, "overlap_of": neighbours},
        }


@dataclass
class Report:
    """What the comparison found."""

    sentences: int
    tokens: int
    linear_layers: int
    threads: int
    speed: dict[str, Speed]
    neighbours: int
    closeness: dict[str, Closeness]  # of all kinds but float32
    chosen: dict[str, int]  # what `auto` took, and for how many weights

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: plain numbers and names only."""
        float32, kinds = self.speed["float32"], {}
        for kind, speed in self.speed.items():
            kinds[kind] = {
                "linear_bytes": speed.linear_bytes,
                "linear_seconds": speed.linear_seconds,
                "linear_speedup": float32.linear_seconds / speed.linear_seconds,
                "sentences_per_second": {
                    "one_core": self.sentences / speed.one_core_seconds,
                    "all_cores": self.sentences / speed.all_cores_seconds,
                },
            }
            if kind in self.closeness:
                kinds[kind] |= self.closeness[kind].as_dict(self.neighbours)
        return {
            "sentences": self.sentences,
            "tokens": self.tokens,
            "linear_layers": self.linear_layers,
            "threads": self.threads,
            **kinds,
            "auto_took": self.chosen,
        }


def auto() -> Recipe:
    """For each weight the fastest of what the presets do, within a budget of error; as the demo multiplies them."""
    steps = {preset: Recipe.preset(preset).rule("w", "linear") for preset in PRESETS}
    rule = Rule(candidates=tuple(rule.steps for rule in steps.values() if rule is not None))
    return Recipe((rule,), batch=BATCH_TOKENS, threads=1, budget=Recipe.preset("auto").budget, label="auto")


def compressed(
    encoder: Encoder, calibration: list[list[int]], step: Callable[[str], None]
) -> tuple[dict[str, Encoder], dict[str, int]]:
    """The encoder in each of KINDS, calibrated on sentences of these tokens; and what `auto` took, how many times.

    `step` is called with each kind when it is done.
    """
    weights, forward = encoder.weights(), encoder.calibration(minilm.batches(calibration, BATCH_TOKENS))
    encoders, taken = {"float32": encoder.with_weights(weights)}, Counter[str]()
    for kind in KINDS[1:]:
        needed = None if kind in ("fp16", "int8") else forward  # rounding to these asks for no inputs
        model = pc.compress(weights, auto() if kind == "auto" else kind, calibration=needed)
        encoders[kind] = encoder.with_weights(model)
        taken = Counter(layer.label for layer in model.report().layers)
        step(kind)
    return encoders, dict(taken.most_common())


def passes(threads: int, repeat: int) -> int:
    """How many times all sentences are embedded with each kind of weights, for a progress bar."""
    return repeat * (1 if threads == 1 else 2)


def compare(
    directory: Path,
    sentences: list[str],
    calibration: list[str],
    *,
    threads: int,
    repeat: int,
    made: Callable[[str], None],
    step: Step,
) -> Report:
    """Embed `sentences` (2 or more) with the model in `directory`, `repeat` times with each kind of weights.

    calibration: other sentences. The kinds take turns, so that a change in the machine's speed meets all; each time is
    the median of `repeat`. `made` is called with a kind when its weights are there, `step` with the number of sentences
    that have just been embedded.
    """
    encoder = Encoder.load(directory)
    tokens, learnt = (minilm.tokenize(directory, texts, len(encoder.positions)) for texts in (sentences, calibration))
    encoders, chosen = compressed(encoder, learnt, made)
    total = sum(map(len, tokens))
    hidden = encoder.words.shape[1]

    # Only the linear layers are pycompress: NumPy's BLAS, which multiplies in the attention, gets no more cores.
    with threadpool_limits(limits=1, user_api="blas"):
        cut = minilm.batches(tokens, BATCH_TOKENS)
        embeddings = {kind: np.empty((len(sentences), hidden), np.float32) for kind in KINDS}
        one_core, linear = _one_core(encoders, cut, embeddings, repeat, step)
        all_cores = one_core
        if threads > 1:
            # Some batches for each core, so that none waits long for the last.
            cut = minilm.batches(tokens, min(BATCH_TOKENS, max(64, total // (4 * threads))))
            all_cores = _all_cores(encoders, cut, threads, repeat, step)

    neighbours, closeness = 0, {}
    for kind in KINDS[1:]:
        top1, overlap, neighbours = agreement(embeddings["float32"], embeddings[kind], NEIGHBOURS)
        cosines = np.einsum("ij,ij->i", embeddings["float32"], embeddings[kind])
        closeness[kind] = Closeness(cosines, top1, overlap)
    size = {kind: sum(layer.nbytes for layer in encoders[kind].linears) for kind in KINDS}
    speed = {kind: Speed(size[kind], linear[kind], one_core[kind], all_cores[kind]) for kind in KINDS}
    return Report(len(sentences), total, encoder.linear_layers, threads, speed, neighbours, closeness, chosen)


def _one_core(
    encoders: dict[str, Encoder], cut: Sequence[Batch], embeddings: dict[str, Floats], repeat: int, step: Step
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds for all batches, and of these in the linear layers; the kinds take turns batch by batch."""
    seconds = np.empty((2, len(KINDS), len(cut), repeat))
    for encoder in encoders.values():
        encoder(cut[0].ids, cut[0].mask, num_threads=1)  # packs the weights
    for turn in range(repeat):
        for i, batch in enumerate(cut):
            # Who goes first changes, because the next ones find the batch in the cache.
            for k in _order(turn + i):
                encoder = encoders[KINDS[k]]
                encoder.linear_seconds = 0.0
                start = time.perf_counter()
                embeddings[KINDS[k]][batch.rows] = encoder(batch.ids, batch.mask, num_threads=1)
                seconds[:, k, i, turn] = time.perf_counter() - start, encoder.linear_seconds
                step(len(batch.rows))
    whole, linear = np.median(seconds, axis=-1).sum(axis=-1).tolist()
    return dict(zip(KINDS, whole, strict=True)), dict(zip(KINDS, linear, strict=True))


def _order(turn: int) -> list[int]:
    """The kinds, another one first in each turn."""
    return [(turn + k) % len(KINDS) for k in range(len(KINDS))]


def _all_cores(
    encoders: dict[str, Encoder], cut: Sequence[Batch], threads: int, repeat: int, step: Step
) -> dict[str, float]:
    """Seconds for all batches, each on one of `threads` cores; the kinds take turns over all batches.

    A thread with batches of its own keeps its core busy in the attention too, which NumPy runs on one core.
    """
    seconds = np.empty((len(KINDS), repeat))
    with ThreadPoolExecutor(threads) as pool:
        for turn in range(repeat):
            for k in _order(turn):
                encoder = encoders[KINDS[k]]
                start = time.perf_counter()
                done = [pool.submit(encoder, batch.ids, batch.mask, num_threads=1) for batch in cut]
                for future, batch in zip(done, cut, strict=True):
                    future.result()
                    step(len(batch.rows))
                seconds[k, turn] = time.perf_counter() - start
    return dict(zip(KINDS, np.median(seconds, axis=-1).tolist(), strict=True))


def agreement(a: Floats, b: Floats, neighbours: int) -> tuple[float, float, int]:
    """How far the nearest neighbours in two embeddings [sentences, hidden] of the same sentences agree.

    Returns the part of sentences with the same nearest neighbour, the mean part of the nearest `neighbours` that are
    the same, and how many these were: fewer when there are not so many others.
    """
    neighbours = min(neighbours, len(a) - 1)
    nearest = []
    for embedding in a, b:
        cosine = embedding @ embedding.T
        np.fill_diagonal(cosine, -np.inf)  # a sentence is not its own neighbour
        nearest.append(np.argsort(-cosine, axis=1, kind="stable")[:, :neighbours])
    same = nearest[0][:, :, None] == nearest[1][:, None, :]
    return float(same[:, 0, 0].mean()), float(same.any(axis=2).mean()), neighbours
