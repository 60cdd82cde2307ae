"""torch's quantized operators on FBGEMM."""

from __future__ import annotations

from pycompress.bench.conv import Operands as Images
from pycompress.bench.gemm import Operands
from pycompress.bench.peer import Call, Peer, Ready

from ._sparse import serve_dense
from ._torch import CAPS, convolutions, quantized_linear

PEER = Peer("torch_fbgemm", "torch FBGEMM", ["torch"], caps=CAPS)


@PEER.family("gemm", {"dynamic": "quantized.linear_dynamic", "static": "quantized.linear"})
def gemm(operands: Operands, form: str) -> Call | Ready:
    return quantized_linear("fbgemm", operands, form)


serve_dense(PEER, gemm)


@PEER.family("conv", {"static": "quantized.conv2d"})
def conv(images: Images, form: str) -> Ready:
    return convolutions("fbgemm", images)
