"""Factorization of convolutions: one OIHW weight as a sequence of cheaper convolutions. Sources: docs/converters.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ._arguments import among, floating, interval, whole
from .factorize import Savings, rank_of, relative_error, root_of, truncated_svd
from .inputs import InputStatistics, statistics

__all__ = ["ConvFactors", "Stage", "factorize_conv"]

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = NDArray[np.floating[Any]]
Inputs: TypeAlias = "Array | InputStatistics"
Kind: TypeAlias = Literal["separable", "svd", "tucker2", "cp", "squeeze"]
Form: TypeAlias = Literal["depthwise_first", "pointwise_first", "spatial", "channel"]
Rank: TypeAlias = "int | tuple[int, int]"

_FORMS: dict[str, tuple[Form, ...]] = {
    "separable": ("depthwise_first", "pointwise_first"),
    "svd": ("spatial", "channel"),
}
_MOST = 4096  # unknowns of one least squares problem


class Stage(NamedTuple):
    """One convolution of a sequence, without bias or activation.

    weight: float32 [O, I / groups, kh, kw]. takes: whether it takes (vertical, horizontal) stride, padding and dilation
    of the convolution that it is part of; else it has stride 1, no padding, no dilation.
    """

    weight: Floats
    groups: int
    takes: tuple[bool, bool]


@dataclass(frozen=True)
class ConvFactors:
    """A convolution in stages, to be run one after the other; the bias goes to the last.

    kind, form: as given to `factorize_conv`. shape: (O, I, kh, kw) of the weight that it stands for. savings: see
    `Savings`; its macs are per output position at stride 1.
    """

    kind: str
    form: str | None
    shape: tuple[int, int, int, int]
    stages: tuple[Stage, ...]
    savings: Savings

    def todense(self) -> Floats:
        """The one weight that the stages amount to, float32 [O, I, kh, kw]."""
        return _compose(self.stages, self.shape).astype(np.float32)

    @property
    def pairs(self) -> list[tuple[Floats, Floats]]:
        """Of a separable one, depthwise first: (depthwise [I, 1, kh, kw], pointwise [O, I]), whose results add up."""
        if self.kind != "separable" or self.form != "depthwise_first":
            raise ValueError(
                f"pairs are of kind 'separable', form 'depthwise_first', not of {self.kind!r}, {self.form!r}"
            )
        depthwise, pointwise = (stage.weight for stage in self.stages)
        inputs = self.shape[1]
        rank = len(depthwise) // inputs
        return [
            (np.ascontiguousarray(depthwise[t::rank]), np.ascontiguousarray(pointwise[:, t::rank, 0, 0]))
            for t in range(rank)
        ]


def factorize_conv(
    w: Array,
    kind: Kind = "separable",
    rank: Rank | None = None,
    energy: float | None = None,
    error: float | None = None,
    *,
    form: Form | None = None,
    inputs: Inputs | None = None,
    damping: float = 0.01,
    rounds: int = 4,
    seed: int = 0,
) -> ConvFactors:
    """A convolution as a sequence of cheaper ones.

    Parameters
    ----------
    w
        float32 [O, I, kh, kw], not grouped (other floating dtypes are rounded to float32).
    kind
        "separable": the best sum of `rank` pairs of a depthwise and a pointwise convolution; rank 1, the default, is
        MobileNet's form. form "depthwise_first": kernels of each input channel, by its SVD; "pointwise_first": of each
        output. "svd": form "spatial", kh x 1 to `rank` channels, then 1 x kw; form "channel", kh x kw to `rank`
        channels, then 1 x 1. "tucker2": 1 x 1 to rank[1] channels, kh x kw to rank[0], 1 x 1 (HOSVD, then HOOI until it
        stands still). "cp": 1 x 1 to `rank` channels, kh x 1 and 1 x kw on each, 1 x 1 (needs the extra `cp`,
        tensorly). "squeeze": the 1 x 1 at the middle of the kernel that fits best on `inputs`, which it needs; no rank.
        It takes the place of a convolution with "same" padding, whose padding it has not.
    rank, energy, error
        One of them, as in `factorize`; "cp" takes rank only. For "tucker2" an int means both ranks; energy and error
        bound the error of the whole.
    form
        Of "separable" and "svd"; None is the first named.
    inputs
        Calibration inputs, float32 [samples, I * kh * kw] (see `unfold`) or `InputStatistics`: the stages are then
        fitted to the outputs. "svd" "channel" is the optimum for its rank; "separable" "depthwise_first" alternates
        least squares of both stages for `rounds`, the others fit the last stage. Energy and error choose ranks by the
        weight alone, but for "channel". The error of the outputs is never more than without inputs (with "cp", whose
        iteration ends near an optimum, hardly ever).
    damping
        As in `factorize`.
    seed
        Of "cp" and the randomized SVD.

    Raises TypeError for a dtype, ValueError for a shape, a value, NaN or infinity, ImportError for "cp" without
    tensorly.

    Sources: M. Jaderberg et al., BMVC 2014 (spatial); X. Zhang et al., CVPR 2015 (channel); Y. Kim et al., ICLR 2016
    (tucker2); V. Lebedev et al., ICLR 2015 (cp); A. Howard et al., MobileNets, 2017; F. Iandola et al., SqueezeNet,
    2016.
    """
    w = floating("w", w)
    if w.ndim != 4 or not w.size:
        raise ValueError(f"w has shape {w.shape}, wanted [O, I, kh, kw], not empty")
    if not among(kind, *get_args(Kind)):
        raise ValueError(f"kind is {kind!r}, wanted one of {', '.join(get_args(Kind))}")
    forms = _FORMS.get(kind, (None,))
    form = forms[0] if form is None else form
    if not among(form, *forms):
        raise ValueError(f"form is {form!r}, wanted {' or '.join(map(repr, forms))} for kind {kind!r}")
    rounds = whole("rounds", rounds, 0)
    damping = interval("damping", damping, 0, math.inf, below=True)
    seen = None if inputs is None else statistics(inputs, math.prod(w.shape[1:]))
    problem = _Problem(w.astype(np.float64), seen, damping, seed)
    if kind == "squeeze":
        stages = problem.squeeze(rank, energy, error)
    elif kind == "tucker2":
        stages = problem.tucker2(rank, energy, error)
    elif isinstance(rank, tuple):
        raise ValueError(f"rank is {rank}, wanted an int for kind {kind!r}")
    elif kind == "cp":
        stages = problem.cp(rank, energy, error)
    elif kind == "svd":
        stages = problem.spatial(rank, energy, error) if form == "spatial" else problem.channel(rank, energy, error)
    else:
        if rank is None and energy is None and error is None:
            rank = 1
        by_input = form == "depthwise_first"
        stages = problem.by_input(rank, energy, error, rounds) if by_input else problem.by_output(rank, energy, error)
    shape = (w.shape[0], w.shape[1], w.shape[2], w.shape[3])
    count = sum(stage.weight.size for stage in stages)
    wrong = relative_error(w, _compose(stages, shape), seen)
    return ConvFactors(
        kind, form, shape, stages, Savings((w.size, count), (w.size, count), (4 * w.size, 4 * count), wrong)
    )


def _stage(weight: Array, groups: int, vertical: bool, horizontal: bool) -> Stage:
    return Stage(np.ascontiguousarray(weight, np.float32), groups, (vertical, horizontal))


def _compose(stages: tuple[Stage, ...], shape: tuple[int, int, int, int]) -> Matrix:
    """The stages as one kernel: what is at (y, x) of one and at (v, u) of the next is at (y + v, x + u)."""
    dense = np.eye(shape[1])[:, :, None, None]
    for weight, groups, _ in stages:
        outputs, width, kh, kw = weight.shape
        part = dense.reshape(groups, width, *dense.shape[1:])
        taps = weight.astype(np.float64).reshape(groups, outputs // groups, width, kh, kw)
        both = np.zeros((groups, outputs // groups, shape[1], dense.shape[2] + kh - 1, dense.shape[3] + kw - 1))
        for y in range(kh):
            for x in range(kw):
                product = np.einsum("gow,gwiyx->goiyx", taps[..., y, x], part, optimize=True)
                both[..., y : y + dense.shape[2], x : x + dense.shape[3]] += product
        dense = both.reshape(outputs, *both.shape[2:])
    if dense.shape[2:] != shape[2:]:  # a 1 x 1 in place of a larger kernel: its middle
        whole_kernel = np.zeros(shape)
        whole_kernel[:, :, (shape[2] - 1) // 2, (shape[3] - 1) // 2] = dense[:, :, 0, 0]
        return whole_kernel
    return dense


class _Problem:
    """A weight [O, I, kh, kw] and H, the damped mean of x x^T over its inputs; without inputs H is the identity."""

    def __init__(self, w: Matrix, seen: InputStatistics | None, damping: float, seed: int) -> None:
        self.w, self.seed = w, seed
        self.hessian = None if seen is None else seen.damped(damping)
        self.root = None if seen is None else root_of(seen, damping)

    @property
    def matrix(self) -> Matrix:
        return self.w.reshape(len(self.w), -1)

    def last(self, before: Matrix, plain: Matrix) -> Matrix:
        """The last stage's weight [O, q] that fits best, when the stages before it amount to `before`, [q, I * kh *
        kw].
        """
        if self.hessian is None:
            return plain
        seen = before @ self.hessian
        return np.asarray(_solve(seen @ before.T, (self.matrix @ seen.T).T).T)

    # ---- separable

    def by_input(self, rank: int | None, energy: float | None, error: float | None, rounds: int) -> tuple[Stage, ...]:
        outputs, inputs, kh, kw = self.w.shape
        taps = kh * kw
        u, s, vt = np.linalg.svd(self.w.reshape(outputs, inputs, taps).transpose(1, 0, 2), full_matrices=False)
        r = rank_of(np.sqrt(np.square(s).sum(0)), rank, energy, error)
        scale = np.sqrt(s[:, :r])
        depthwise = scale[:, :, None] * vt[:, :r]  # [I, r, taps]
        pointwise = (u[:, :, :r] * scale[:, None]).transpose(1, 0, 2)  # [O, I, r]
        if self.hessian is not None:
            hessian = self.hessian.reshape(inputs, taps, inputs, taps)
            target = (self.matrix @ self.hessian).reshape(outputs, inputs, taps)
            for i in range(rounds + 1):
                half = np.einsum("itk,ikjl->itjl", depthwise, hessian, optimize=True)
                normal = np.einsum("itjl,jul->itju", half, depthwise, optimize=True).reshape(inputs * r, inputs * r)
                wanted = np.einsum("itk,oik->ito", depthwise, target, optimize=True).reshape(inputs * r, outputs)
                pointwise = _solve(normal, wanted).T.reshape(outputs, inputs, r)
                if i == rounds or inputs * r * taps > _MOST:
                    break
                products = np.einsum("oit,oju->itju", pointwise, pointwise, optimize=True)
                normal = np.einsum("itju,ikjl->itkjul", products, hessian, optimize=True)
                wanted = np.einsum("oit,oik->itk", pointwise, target, optimize=True).reshape(-1)
                size = inputs * r * taps
                depthwise = _solve(normal.reshape(size, size), wanted[:, None]).reshape(inputs, r, taps)
        return (
            _stage(depthwise.reshape(inputs * r, 1, kh, kw), inputs, True, True),
            _stage(pointwise.reshape(outputs, inputs * r, 1, 1), 1, False, False),
        )

    def by_output(self, rank: int | None, energy: float | None, error: float | None) -> tuple[Stage, ...]:
        outputs, inputs, kh, kw = self.w.shape
        taps = kh * kw
        u, s, vt = np.linalg.svd(self.w.reshape(outputs, inputs, taps), full_matrices=False)
        r = rank_of(np.sqrt(np.square(s).sum(0)), rank, energy, error)
        scale = np.sqrt(s[:, :r])
        pointwise = (u[:, :, :r] * scale[:, None]).transpose(0, 2, 1)  # [O, r, I]
        depthwise = scale[:, :, None] * vt[:, :r]  # [O, r, taps]
        if self.hessian is not None:
            hessian = self.hessian.reshape(inputs, taps, inputs, taps)
            target = (self.matrix @ self.hessian).reshape(outputs, inputs, taps)
            for o in range(outputs):
                p = pointwise[o]
                half = np.tensordot(p, hessian, (1, 0))  # [r, taps, I, taps]
                normal = np.einsum("tkjl,uj->tkul", half, p, optimize=True).reshape(r * taps, r * taps)
                depthwise[o] = _solve(normal, (p @ target[o]).reshape(-1, 1)).reshape(r, taps)
        return (
            _stage(pointwise.reshape(outputs * r, inputs, 1, 1), 1, False, False),
            _stage(depthwise.reshape(outputs, r, kh, kw), outputs, True, True),
        )

    # ---- svd

    def spatial(self, rank: int | None, energy: float | None, error: float | None) -> tuple[Stage, ...]:
        outputs, inputs, kh, kw = self.w.shape
        matrix = self.w.transpose(1, 2, 0, 3).reshape(inputs * kh, outputs * kw)
        u, s, vt = truncated_svd(matrix, rank, energy, error, seed=self.seed)
        r, scale = len(s), np.sqrt(s)
        first = (u * scale).T.reshape(r, inputs, kh)
        plain = (scale[:, None] * vt).reshape(r, outputs, kw).transpose(1, 0, 2).reshape(outputs, r * kw)
        before = np.zeros((r, kw, inputs, kh, kw))
        for x in range(kw):
            before[:, x, :, :, x] = first
        second = self.last(before.reshape(r * kw, -1), plain)
        return (
            _stage(first[..., None], 1, True, False),
            _stage(second.reshape(outputs, r, 1, kw), 1, False, True),
        )

    def channel(self, rank: int | None, energy: float | None, error: float | None) -> tuple[Stage, ...]:
        _, inputs, kh, kw = self.w.shape
        matrix = self.matrix if self.root is None else self.matrix @ self.root
        u, s, vt = truncated_svd(matrix, rank, energy, error, seed=self.seed)
        scale = np.sqrt(s)
        first = scale[:, None] * vt
        if self.root is not None:  # the projection, as in `factorize`
            first = (u / np.where(scale > 0, scale, np.inf)).T @ self.matrix
        return (
            _stage(first.reshape(-1, inputs, kh, kw), 1, True, True),
            _stage((u * scale)[:, :, None, None], 1, False, False),
        )

    # ---- tucker2, cp, squeeze

    def tucker2(self, rank: Rank | None, energy: float | None, error: float | None) -> tuple[Stage, ...]:
        outputs, inputs, kh, kw = self.w.shape
        x = self.w.reshape(outputs, inputs, kh * kw)
        if energy is not None:  # what both modes lose adds up at most
            energy = 1 - (1 - interval("energy", energy, 0, 1, above=True)) / 2
        if error is not None:
            error = interval("error", error, 0, 1, below=True) / math.sqrt(2)
        ranks = rank if isinstance(rank, tuple) else (rank, rank)
        if len(ranks) != 2:
            raise ValueError(f"rank is {rank}, wanted an int, or two: of the outputs and of the inputs")
        if isinstance(rank, int):
            ranks = (min(rank, outputs), min(rank, inputs))
            whole("rank", rank, 1, max(outputs, inputs))
        left = truncated_svd(x.reshape(outputs, -1), ranks[0], energy, error, seed=self.seed)[0]
        right = truncated_svd(x.transpose(1, 0, 2).reshape(inputs, -1), ranks[1], energy, error, seed=self.seed)[0]
        size = 0.0
        for _ in range(50):
            left = _leading(np.einsum("oik,ir->ork", x, right, optimize=True).reshape(outputs, -1), left.shape[1])
            right = _leading(np.einsum("oik,or->irk", x, left, optimize=True).reshape(inputs, -1), right.shape[1])
            core = np.einsum("oik,or,is->rsk", x, left, right, optimize=True)
            before, size = size, float(np.vdot(core, core))
            if size <= before * (1 + 1e-9):
                break
        inner = np.einsum("rsk,is->rik", core, right, optimize=True).reshape(left.shape[1], -1)
        last = self.last(inner, left)
        return (
            _stage(right.T[:, :, None, None], 1, False, False),
            _stage(core.reshape(left.shape[1], right.shape[1], kh, kw), 1, True, True),
            _stage(last[:, :, None, None], 1, False, False),
        )

    def cp(self, rank: int | None, energy: float | None, error: float | None) -> tuple[Stage, ...]:
        if rank is None or energy is not None or error is not None:
            raise ValueError(f"rank is {rank}, energy {energy}, error {error}: kind 'cp' takes rank only")
        rank = whole("rank", rank, 1, self.w.size)
        try:
            from tensorly.decomposition import parafac
        except ImportError as missing:
            raise ImportError("kind 'cp' needs tensorly: pip install 'pycompress-kernels[cp]'") from missing
        _, (o, i, y, x) = parafac(self.w, rank, n_iter_max=200, init="random", tol=1e-7, random_state=self.seed)
        before = np.einsum("ir,yr,xr->riyx", i, y, x).reshape(rank, -1)
        last = self.last(before, o)
        return (
            _stage(i.T[:, :, None, None], 1, False, False),
            _stage(y.T[:, None, :, None], rank, True, False),
            _stage(x.T[:, None, None, :], rank, False, True),
            _stage(last[:, :, None, None], 1, False, False),
        )

    def squeeze(self, rank: Rank | None, energy: float | None, error: float | None) -> tuple[Stage, ...]:
        if not (rank is None and energy is None and error is None):
            raise ValueError(f"rank is {rank}, energy {energy}, error {error}: kind 'squeeze' takes none of them")
        if self.hessian is None:
            raise ValueError("kind 'squeeze' needs calibration inputs: inputs is None")
        _, inputs, kh, kw = self.w.shape
        middle = np.arange(inputs) * kh * kw + (kh - 1) // 2 * kw + (kw - 1) // 2
        before = np.eye(inputs * kh * kw)[middle]
        return (_stage(self.last(before, before)[:, :, None, None], 1, True, True),)


def _leading(matrix: Matrix, rank: int) -> Matrix:
    """The left singular vectors of the largest singular values."""
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


def _solve(normal: Matrix, wanted: Matrix) -> Matrix:
    """Least squares by normal equations, of the least norm where they do not determine the solution."""
    scale = np.sqrt(np.where(np.diagonal(normal) > 0, np.diagonal(normal), 1.0))
    normal = normal / scale / scale[:, None]
    try:
        factor = np.linalg.cholesky(normal)
    except np.linalg.LinAlgError:
        factor = None
    if factor is None or np.diagonal(factor).min(initial=1) < 1e-7:
        values, vectors = np.linalg.eigh(normal)
        good = values > 1e-12 * values.max(initial=0)
        vectors, values = vectors[:, good], values[good]
        solved = vectors @ ((vectors.T @ (wanted / scale[:, None])) / values[:, None])
    else:
        solved = np.linalg.solve(normal, wanted / scale[:, None])
    return np.asarray(solved / scale[:, None])
