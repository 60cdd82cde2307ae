"""One layer: what kind it is, and its weight taken through the steps of a recipe."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import weights as kinds
from .._hessian import matched
from ..inputs import InputStatistics
from ..io import Info
from ..ops import linear
from ..recipe import Prune, Quantize, Steps
from ..weights import Weight

__all__ = ["Made", "Samples", "kind_of", "make"]

Array = NDArray[Any]
Floats = NDArray[np.float32]

MOST_ROWS = 4096  # of calibration inputs that an error is measured on

_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "Q8_0", "Q4_0"}
_TABLE = re.compile(r"(?:^|_)emb|embed|^wte$|^wpe$|^shared$")
_NO_TABLE = re.compile(r"proj|map|norm")


@dataclass(frozen=True)
class Made:
    """A weight after the steps; what it is, in words; its error on "outputs" or on the "weight"; fixed QParams of x."""

    weight: Weight | Array
    label: str
    error: float | None
    error_of: str | None
    x_qparams: tuple[float, int] | None = None
    note: str = ""


def kind_of(name: str, info: Info) -> str:
    """The kind of layer that a tensor is the weight of, one of `recipe.LAYERS`, or "other"."""
    shape = info.shape
    if info.dtype not in _FLOATS or len(shape) not in (2, 4) or 0 in shape:
        return "other"
    if len(shape) == 4:
        if info.layer == "depthwise" or (info.layer is None and shape[1] == 1 and shape[0] > 1):
            return "depthwise"
        return "pointwise" if shape[2:] == (1, 1) and info.layer != "grouped" else "conv"
    if info.layer is not None:
        return info.layer if info.layer in ("linear", "embedding") else "other"
    if min(shape) == 1:
        return "other"
    module = name.removesuffix(".weight").rpartition(".")[2].lower()
    return "embedding" if _TABLE.search(module) and not _NO_TABLE.search(module) else "linear"


class Samples:
    """Calibration inputs of a layer: rows, float32 [samples, k], where they are known; their sums, made when needed."""

    def __init__(self, rows: Floats | None, statistics: InputStatistics | None = None) -> None:
        self.rows, self._statistics = rows, statistics

    @classmethod
    def of(cls, name: str, inputs: Any, k: int | None) -> Samples:
        """From an array, a list of them, or InputStatistics. k: how long a row must be, if that is known.

        TypeError for another dtype, ValueError for another shape or no sample, each with the name of the weight.
        """
        if isinstance(inputs, InputStatistics):
            return cls(None, inputs)
        parts = []
        for part in inputs if isinstance(inputs, list | tuple) else [inputs]:
            a = np.asarray(part)
            if not np.issubdtype(a.dtype, np.floating):
                raise TypeError(f"calibration[{name!r}] is an array of {a.dtype}, wanted float32")
            if a.ndim < 1 or (k is not None and a.shape[-1] != k):
                raise ValueError(f"calibration[{name!r}] has shape {a.shape}, wanted [samples, {k}]")
            parts.append(a.reshape(-1, a.shape[-1]))
        if not sum(map(len, parts)):
            raise ValueError(f"calibration[{name!r}] holds no sample")
        return cls(np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts), np.float32))

    @property
    def statistics(self) -> InputStatistics:
        """What the converters need of the rows; the same object for all candidates of a layer."""
        if self._statistics is None:
            assert self.rows is not None
            self._statistics = InputStatistics(self.rows.shape[1])
            self._statistics.update(self.rows)
        return self._statistics

    def arrays(self) -> list[Array]:
        """All that there is to know of them."""
        if self.rows is not None:
            return [self.rows]
        seen = self.statistics
        return [seen.gram, seen.sum, seen.absmax, np.array(seen.count)]


def make(
    w: Floats, steps: Steps, layer: str, samples: Samples | None, seed: int, reference: Floats | None = None
) -> Made:
    """Take a weight, float32 [N, K] or [O, I, kh, kw], through the steps.

    reference: for each row of the samples what it was before other layers were compressed. The outputs of w on these
    are what is wanted, and what errors are relative to.
    """
    whole, dense = w, layer in ("conv", "depthwise")
    if layer == "pointwise":
        w = whole = w.reshape(w.shape[:2])  # convolutions of 1 x 1 take every kind as a matrix, and so does linear
    x_qparams = _range(samples, steps.quantize)
    if layer == "depthwise":
        samples = None  # each channel has inputs of its own: nothing else here uses them
    inputs = None if samples is None or not _uses_inputs(steps) else samples.statistics
    if inputs is not None and samples is not None and samples.rows is not None and reference is not None:
        w = matched(w.reshape(len(w), -1), reference, samples.rows, inputs).reshape(w.shape)
    note, factors = "", None
    if steps.factorize is not None:
        from ..factorize import factorize

        f = steps.factorize
        low = factorize(
            w, f.rank and min(f.rank, *w.shape), f.energy, f.error, inputs=inputs, seed=seed, allow_larger=True
        )
        rank, (n, k) = low.rank, w.shape
        if rank * (n + k) < n * k:
            factors = low
        else:
            note = f"rank {rank} would save nothing: not factorized"
    weight: Weight | Array
    if factors is None:
        weight, label = _rest(w, steps, layer, inputs), str(Steps(None, steps.prune, steps.quantize))
    else:
        b = _rest(_floats(factors.b), steps, "linear", inputs)
        # The second factor sees what the first one gives.
        a = _rest(_floats(factors.a), steps, "linear", _through(inputs, b))
        weight = kinds.LowRankWeight(a, b)
        rest = str(Steps(None, steps.prune, steps.quantize))
        label = f"rank {factors.rank}" + (f" {rest}" if rest != "float32" else "")
    error, error_of = _error(whole, weight, samples, dense, x_qparams, reference)
    return Made(weight, label, error if math.isfinite(error) else None, error_of, x_qparams, note)


def _uses_inputs(steps: Steps) -> bool:
    """Whether a step makes use of calibration inputs, whose sums cost some time."""
    q = steps.quantize
    rounds = q is not None and (q.bits == 4 or q.rounding == "gptq" or q.clip == "mse")
    return steps.factorize is not None or steps.prune is not None or rounds


def _range(samples: Samples | None, q: Quantize | None) -> tuple[float, int] | None:
    """Scale and zero point of static activations, from rows of inputs."""
    from ..calibration import calibrate

    if q is None or q.activations == "dynamic":
        return None
    if samples is None or samples.rows is None:
        raise ValueError(f"activations {q.activations!r} need calibration inputs as arrays")
    method: Any = q.activations
    found = calibrate([samples.rows], method)
    return found.scale, found.zero_point


def _rest(w: Floats, steps: Steps, layer: str, inputs: Any) -> Any:
    """Prune and quantize one matrix, or the weight of a convolution."""
    if steps.prune is not None:
        w = _prune(w, steps.prune, inputs)
        if layer != "conv":
            return _sparse(w, steps.prune, steps.quantize, inputs)
    if layer == "depthwise":
        return kinds.DepthwiseWeight.from_float(w, bits=8)
    return w if steps.quantize is None else _quantize(w, steps.quantize, inputs)


def _prune(w: Floats, p: Prune, inputs: Any) -> Floats:
    from ..prune import prune

    method: Any = p.method or ("magnitude" if inputs is None else "sparsegpt")
    per: Any = p.per
    return prune(w, p.sparsity, p.pattern, block=p.block, m=p.m, method=method, inputs=inputs, per=per)


def _sparse(w: Floats, p: Prune, q: Quantize | None, inputs: Any) -> Weight:
    made: kinds.BSRWeight | kinds.CSRWeight
    bits = 32 if q is None else 8
    if p.pattern == "block":
        made = kinds.BSRWeight.from_dense(w, block=p.block, bits=bits)
    else:
        made = kinds.CSRWeight.from_dense(w, bits=bits)
    if q is None or (q.per in (None, "channel") and q.rounding in (None, "nearest") and q.clip == "max"):
        return made
    from ..quantize import integers

    options: Any = {"per": q.per or "channel", "rounding": q.rounding or "nearest", "clip": q.clip}
    done = integers(w, 8, inputs=inputs, **options)
    height, width = made.data.shape[1:] or (1, 1)
    levels = np.pad(done.q, ((0, -len(w) % height), (0, -w.shape[1] % width)))
    blocks = levels.reshape(len(levels) // height, height, -1, width).transpose(0, 2, 1, 3)
    rows = np.repeat(np.arange(len(made.indptr) - 1), np.diff(made.indptr))
    data = blocks[rows, made.indices].reshape(made.data.shape)
    return type(made)(data, made.indices, made.indptr, w.shape, np.ascontiguousarray(done.scale[:, 0]))


def _quantize(w: Floats, q: Quantize, inputs: Any) -> Weight:
    from ..quantize import quantize

    if q.bits == 16:
        return _as_weight(quantize(w, 16))
    per: Any = q.per
    rounding: Any = q.rounding or ("gptq" if q.bits == 4 and inputs is not None else "nearest")
    clip: Any = q.clip
    made = quantize(w, q.bits, per=per, group_size=q.group_size, rounding=rounding, clip=clip, inputs=inputs)
    return _as_weight(made)


def _as_weight(made: Any) -> Weight:
    assert isinstance(made, Weight)
    return made


def _floats(factor: Any) -> Floats:
    made: Floats = factor.todense() if isinstance(factor, Weight) else factor
    return made


def _through(inputs: InputStatistics | None, b: Weight | Array) -> InputStatistics | None:
    """The inputs of a factor `a`: what `b` makes of the layer's."""
    if inputs is None:
        return None
    dense = _floats(b).astype(np.float64)
    through = InputStatistics(len(dense))
    through.count, through.gram, through.sum = inputs.count, dense @ inputs.gram @ dense.T, dense @ inputs.sum
    return through


def _error(
    w: Floats,
    weight: Weight | Array,
    samples: Samples | None,
    dense: bool,
    x_qparams: tuple[float, int] | None,
    reference: Floats | None,
) -> tuple[float, str]:
    """Relative error (Frobenius) of the outputs on the calibration inputs, else of the weight.

    With rows of inputs a matrix is multiplied as `linear` does it, so that the quantization of x counts as well.
    """
    matrix = w.reshape(len(w), -1)
    if samples is not None and samples.rows is not None:
        x = samples.rows
        before = x if reference is None else reference
        if len(x) > MOST_ROWS:
            some = np.linspace(0, len(x) - 1, MOST_ROWS).astype(int)
            x, before = x[some], before[some]
        if dense:
            x_qparams = None
        used = weight if len(weight.shape) == 2 and not dense else _floats(weight).reshape(matrix.shape)
        wrong = total = 0.0
        for start in range(0, len(x), 512):
            part = np.ascontiguousarray(x[start : start + 512])
            y = (before[start : start + 512] @ matrix.T).astype(np.float64)
            wrong += float(np.sum((linear(part, used, x_qparams=x_qparams) - y) ** 2))
            total += float(np.sum(y * y))
        return (math.sqrt(wrong / total) if total else math.sqrt(wrong)), "outputs"
    approximation = _floats(weight).reshape(matrix.shape)
    if samples is not None:
        return samples.statistics.output_error(matrix, approximation), "outputs"
    # Sums by NumPy, not by BLAS: they do not depend on threads.
    norm = math.sqrt(float(np.sum(np.square(matrix, dtype=np.float64))))
    difference = math.sqrt(float(np.sum(np.square(approximation.astype(np.float64) - matrix))))
    return (difference / norm if norm else difference), "weight"
