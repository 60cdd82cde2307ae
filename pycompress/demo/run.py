"""The comparison: the same sentences embedded with float32 and with int8 weights, on one core and on all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from . import minilm
from .minilm import Batch, Encoder

Floats = NDArray[np.float32]
Step = Callable[[int], None]  # told how many more sentences have been embedded

KINDS = ("float32", "int8")
BATCH_TOKENS = 256  # both kinds are fastest about here: the kernels have work enough, and activations stay in the cache
NEIGHBOURS = 10


@dataclass
class Speed:
    """What one kind of weights needs: bytes, and seconds for all sentences."""

    linear_bytes: int
    linear_seconds: float  # in the linear layers, on one core
    one_core_seconds: float
    all_cores_seconds: float


@dataclass
class Report:
    """What the comparison found; `cosines` [sentences] are those of each int8 embedding to its float32 one."""

    sentences: int
    tokens: int
    linear_layers: int
    threads: int
    speed: dict[str, Speed]
    cosines: Floats = field(repr=False)
    top1: float  # part of the sentences whose nearest neighbour is the same
    neighbours: int
    overlap: float  # mean part of the nearest `neighbours` that are the same

    @property
    def linear_speedup(self) -> float:
        """How many times faster the int8 linear layers are, on one core."""
        return self.speed["float32"].linear_seconds / self.speed["int8"].linear_seconds

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: plain numbers and names only."""
        per_kind = {
            kind: {
                "linear_bytes": speed.linear_bytes,
                "linear_seconds": speed.linear_seconds,
                "sentences_per_second": {
                    "one_core": self.sentences / speed.one_core_seconds,
                    "all_cores": self.sentences / speed.all_cores_seconds,
                },
            }
            for kind, speed in self.speed.items()
        }
        return {
            "sentences": self.sentences,
            "tokens": self.tokens,
            "linear_layers": self.linear_layers,
            "threads": self.threads,
            **per_kind,
            "linear_speedup": self.linear_speedup,
            "cosine": {"mean": float(self.cosines.mean()), "worst": float(self.cosines.min())},
            "neighbours": {"top1": self.top1, "overlap": self.overlap, "overlap_of": self.neighbours},
        }


def passes(threads: int, repeat: int) -> int:
    """How many times all sentences are embedded with each kind of weights, for a progress bar."""
    return repeat * (1 if threads == 1 else 2)


def compare(directory: Path, sentences: list[str], *, threads: int, repeat: int, step: Step) -> Report:
    """Embed `sentences` (2 or more) with the model in `directory`, `repeat` times with each kind of weights.

    The kinds take turns, so that a change in the machine's speed meets both; each time is the median of `repeat`.
    `step` is called with the number of sentences that have just been embedded.
    """
    encoder = Encoder.load(directory)
    encoders = {"float32": encoder, "int8": encoder.quantized()}
    tokens = minilm.tokenize(directory, sentences, longest=len(encoder.positions))
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

    top1, overlap, neighbours = agreement(embeddings["float32"], embeddings["int8"], NEIGHBOURS)
    size = {kind: sum(layer.nbytes for layer in encoders[kind].linears) for kind in KINDS}
    speed = {kind: Speed(size[kind], linear[kind], one_core[kind], all_cores[kind]) for kind in KINDS}
    cosines = np.einsum("ij,ij->i", embeddings["float32"], embeddings["int8"])
    return Report(len(sentences), total, encoder.linear_layers, threads, speed, cosines, top1, neighbours, overlap)


def _one_core(
    encoders: dict[str, Encoder], cut: Sequence[Batch], embeddings: dict[str, Floats], repeat: int, step: Step
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds for all batches, and of these in the linear layers; the kinds take turns batch by batch."""
    seconds = np.empty((2, len(KINDS), len(cut), repeat))
    for encoder in encoders.values():
        encoder(cut[0].ids, cut[0].mask, num_threads=1)  # packs the weights
    for turn in range(repeat):
        for i, batch in enumerate(cut):
            # Who goes first changes, because the second finds the batch in the cache.
            for k in (0, 1) if (turn + i) % 2 == 0 else (1, 0):
                encoder = encoders[KINDS[k]]
                encoder.linear_seconds = 0.0
                start = time.perf_counter()
                embeddings[KINDS[k]][batch.rows] = encoder(batch.ids, batch.mask, num_threads=1)
                seconds[:, k, i, turn] = time.perf_counter() - start, encoder.linear_seconds
                step(len(batch.rows))
    whole, linear = np.median(seconds, axis=-1).sum(axis=-1).tolist()
    return dict(zip(KINDS, whole, strict=True)), dict(zip(KINDS, linear, strict=True))


def _all_cores(
    encoders: dict[str, Encoder], cut: Sequence[Batch], threads: int, repeat: int, step: Step
) -> dict[str, float]:
    """Seconds for all batches, each on one of `threads` cores; the kinds take turns over all batches.

    A thread with batches of its own keeps its core busy in the attention too, which NumPy runs on one core.
    """
    seconds = np.empty((len(KINDS), repeat))
    with ThreadPoolExecutor(threads) as pool:
        for turn in range(repeat):
            for k in (0, 1) if turn % 2 == 0 else (1, 0):
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
