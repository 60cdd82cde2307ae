"""What the peers of the family "sparse" share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycompress.bench import gemm, sparse
from pycompress.bench.measure import Timer
from pycompress.bench.peer import Call, Peer, Ready

# Of a form, the dense one that computes the same.
DENSE = {name: kind.dense for name, kind in sparse.KINDS.items()}


def serve_dense(peer: Peer, setup: Callable[[gemm.Operands, str], Call | Ready]) -> None:
    """Let a library that has no sparse product multiply the zeros, by its function for the family "gemm"."""
    known = peer.served["gemm"]
    forms = {name: known[dense] for name, dense in DENSE.items() if dense in known}
    peer.not_held = [*peer.not_held, *(name for name, dense in DENSE.items() if dense in peer.not_held)]
    peer.family("sparse", forms, group="dense")(lambda operands, form: setup(operands.dense(form), DENSE[form]))


def whole_blocks(w: NDArray[np.float32], block: tuple[int, int]) -> NDArray[np.float32]:
    """w filled up with zeros to whole blocks."""
    return np.pad(w, [(0, -size % of) for size, of in zip(w.shape, block, strict=True)])


def fastest(ways: Iterable[Ready]) -> Ready:
    """Of several ways to call a library the one that is fastest here."""
    return min(ways, key=lambda ready: Timer(ready.call).turn(0.01))


def transposed(y: Any) -> NDArray[Any]:
    """Of a product that gave y^T [N, M]."""
    return np.ascontiguousarray(np.asarray(y).T)
