"""torch.sparse in float32: CSR, and BSR, whose products are MKL's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pycompress.bench import sparse
from pycompress.bench.peer import Peer, Ready

from ._sparse import fastest, transposed, whole_blocks
from ._torch import CAPS, start

PEER = Peer("torch_sparse", "torch sparse", ["torch"], caps=CAPS)


@PEER.family(
    "sparse",
    {
        name: "csr or bsr, w @ x.T or linear, the fastest"
        for name, kind in sparse.KINDS.items()
        if kind.dense != "static"
    },
    group="sparse",
)
def product(operands: sparse.Operands, form: str) -> Ready:
    return fastest(_ways(operands, form))


def _ways(operands: sparse.Operands, form: str) -> Iterator[Ready]:
    """x as it is, and transposed beforehand at no cost to it. BSR where it has that: MKL's blocks are square."""
    torch = start()
    dense, block = operands.dense(form), sparse.KINDS[form].block
    n, k = dense.w.shape
    whole = whole_blocks(dense.w, block)
    x = np.pad(dense.x, [(0, 0), (0, whole.shape[1] - k)])
    rows, columns = torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(x.T))
    weights = [torch.from_numpy(whole).to_sparse_csr()]
    if block != (1, 1):
        weights.append(torch.from_numpy(whole).to_sparse_bsr(block))
    linear = torch.nn.functional.linear
    for w in weights:
        ways = (
            Ready(lambda w=w: w @ columns, lambda y: transposed(y)[:, :n]),
            Ready(lambda w=w: linear(rows, w), lambda y: y.numpy()[:, :n]),
        )
        for way in ways:
            try:
                way.call()
            except (RuntimeError, NotImplementedError):  # that it has no such product
                continue
            yield way
