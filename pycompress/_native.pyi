"""The compiled kernels; what each takes is described in _backend.py."""

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]
_Activation = tuple[int, float, float]
_QParams = tuple[float, int]

class _Isa(TypedDict):
    name: str
    usable: bool

class Packed:
    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...

class Int8Packed(Packed):
    @property
    def nbytes(self) -> int: ...
    @property
    def kernel(self) -> str: ...
    def tobytes(self) -> bytes: ...

class Int4Packed(Packed):
    @property
    def nbytes(self) -> int: ...
    @property
    def kernel(self) -> str: ...
    def tobytes(self) -> bytes: ...

def quantize_linear(
    x: _Array, scale: _Array, zero_point: _Array, out: _Array, num_threads: int | None = None
) -> None: ...
def dequantize_linear(
    x: _Array, scale: _Array, zero_point: _Array, out: _Array, num_threads: int | None = None
) -> None: ...
def dynamic_quantize_linear(x: _Array, out: _Array, num_threads: int | None = None) -> tuple[float, int]: ...
def quantize_rows(
    x: _Array, out: _Array, scale: _Array, zero_point: _Array, num_threads: int | None = None
) -> None: ...
def pack_int8(q: _Array, scale: NDArray[np.float32]) -> Int8Packed: ...
def pack_int4(data: NDArray[np.uint8], scale: NDArray[np.float32], k: int, group_size: int) -> Int4Packed: ...
def pack_f32(w: NDArray[np.float32]) -> Packed: ...
def pack_f16(w: NDArray[np.float16]) -> Packed: ...
def pack_lowrank(a: Packed, b: Packed, mid_qparams: _QParams | None) -> Packed: ...

class SparsePacked(Packed):
    @property
    def nbytes(self) -> int: ...
    @property
    def kernel(self) -> str: ...

def pack_sparse(
    data: _Array, indices: _Array, indptr: _Array, scale: _Array | None, n: int, k: int
) -> SparsePacked: ...
def gemm_int8(
    x: _Array,
    w: Int8Packed,
    x_zero_point: _Array | None,
    w_zero_point: _Array | None,
    out: _Array,
    num_threads: int | None = None,
) -> None: ...
def linear(
    x: _Array,
    w: Packed,
    bias: _Array | None,
    activation: _Activation,
    x_qparams: _QParams | None,
    y_qparams: _QParams | None,
    out: _Array,
    num_threads: int | None = None,
    w_zero_point: _Array | None = None,
) -> None: ...
def linear_f32(
    x: _Array, w: _Array, bias: _Array | None, activation: _Activation, out: _Array, num_threads: int | None = None
) -> None: ...
def linear_fast(
    x: Any, weight: Any, bias: Any, activation: Any, x_qparams: Any, y_qparams: Any, out: Any, num_threads: Any, /
) -> Any: ...
def matmul_integer_fast(a: Any, weight: Any, a_zero_point: Any, b_zero_point: Any, /) -> Any: ...
def pool_fast(
    x: Any,
    mode: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    x_qparams: Any,
    y_qparams: Any,
    out: Any,
    num_threads: Any,
    /,
) -> Any: ...
def add_fast(
    a: Any, b: Any, a_qparams: Any, b_qparams: Any, y_qparams: Any, activation: Any, out: Any, num_threads: Any, /
) -> Any: ...
def pool(
    x: _Array,
    out: _Array,
    mode: int,
    geometry: tuple[int, ...],
    x_qparams: _QParams | None,
    y_qparams: _QParams | None,
    num_threads: int | None = None,
) -> None: ...
def add(
    a: _Array,
    b: _Array,
    out: _Array,
    a_qparams: _QParams | None,
    b_qparams: _QParams | None,
    y_qparams: _QParams | None,
    activation: _Activation,
    num_threads: int | None = None,
) -> None: ...
def isas() -> list[_Isa]: ...
def active_isa() -> str: ...
def set_isa(name: str | None) -> None: ...
def last_kernel() -> str: ...
def cpu_name() -> str: ...
def usable_cpus() -> int: ...
def cache_sizes() -> tuple[int, int, int]: ...
def measure_peak(type: str) -> float: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def version() -> str: ...
def compiler() -> str: ...

class DepthwisePacked:
    @property
    def kernel(self) -> str: ...

def pack_depthwise(w: _Array, scale: NDArray[np.float32] | None) -> DepthwisePacked: ...
def depthwise(
    x: _Array,
    w: DepthwisePacked,
    bias: _Array | None,
    activation: _Activation,
    x_qparams: _QParams | None,
    y_qparams: _QParams | None,
    shape: tuple[int, ...],
    out: _Array,
    num_threads: int | None = None,
) -> None: ...

class ConvPacked:
    def of_group(self, i: int) -> Packed: ...

def pack_conv(groups: list[Packed], kh: int, kw: int, stored: list[_Array]) -> ConvPacked: ...
def conv(
    x: _Array,
    w: ConvPacked,
    bias: _Array | None,
    activation: _Activation,
    x_qparams: _QParams | None,
    y_qparams: _QParams | None,
    shape: tuple[int, ...],
    out: _Array,
    num_threads: int | None = None,
    w_zero_point: _Array | None = None,
) -> None: ...
def transpose(x: _Array, batch: int, rows: int, columns: int, out: _Array, num_threads: int | None = None) -> None: ...
def separable(
    x: _Array,
    depthwise: DepthwisePacked,
    pointwise: Packed,
    depthwise_bias: _Array | None,
    bias: _Array | None,
    depthwise_activation: _Activation,
    activation: _Activation,
    x_qparams: _QParams | None,
    mid_qparams: _QParams | None,
    y_qparams: _QParams | None,
    shape: tuple[int, ...],
    out: _Array,
    num_threads: int | None = None,
) -> None: ...
