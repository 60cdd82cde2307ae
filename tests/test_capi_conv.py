"""The convolutions of pycompress.h through cffi: the same bits as pycompress, in parts on threads."""

import math

import numpy as np
import pytest
from reference import f32, random_bytes, same_bits

import pycompress as pc

pytest.importorskip("pycompress.capi")
pytest.importorskip("pycompress._native", reason="the compiled part is not installed")

from test_capi import TYPES, aligned, capi, describe, ffi, lib, on_threads, pointer, text

B, H, W, C, N = 2, 9, 7, 70, 12


def image(**fields):
    sizes = {"batch": B, "height": H, "width": W, "channels": C, "outputs": C, "kernel_height": 3, "kernel_width": 3}
    pads = dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), 1)
    types = {"x_type": lib.PC_U8, "y_type": lib.PC_U8, "x_scale": 0.5, "x_zero_point": 9, "y_scale": 0.75}
    return describe("pc_conv_desc", **(sizes | pads | types | fields))


def sized(call):
    size = ffi.new("size_t *")
    capi.check(call(size))
    return aligned(size[0])


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("bits", [8, 32])
def test_depthwise(nth, bits):
    rng = np.random.default_rng(0)
    weight = pc.DepthwiseWeight.from_float(rng.standard_normal((C, 1, 3, 3)).astype(f32), bits=bits)
    if bits == 8:
        x, desc, w_type = random_bytes(rng, np.uint8, B, H, W, C), image(), lib.PC_S8
        wanted = pc.depthwise_conv2d(x, weight, padding=1, x_qparams=(0.5, 9), y_qparams=(0.75, 0))
    else:
        x, w_type = rng.standard_normal((B, H, W, C)).astype(f32), lib.PC_F32
        desc = image(x_type=w_type, y_type=w_type, x_zero_point=0)
        wanted = pc.depthwise_conv2d(x, weight, padding=1)
    packed = sized(lambda size: lib.pc_depthwise_pack_size(w_type, C, 3, 3, size))
    arrays = weight.q.copy(), weight.scale
    capi.check(
        lib.pc_depthwise_pack(
            pointer(arrays[0]), w_type, C, 3, 3, pointer(arrays[1], "float *"), pointer(packed), packed.size
        )
    )
    kind, outputs, kernel = ffi.new("pc_type *"), ffi.new("int64_t *"), ffi.new("char **")
    capi.check(lib.pc_depthwise_packed_info(pointer(packed), packed.size, kind, outputs, ffi.NULL, ffi.NULL, kernel))
    assert (kind[0], outputs[0]) == (w_type, C)
    assert text(kernel[0]).startswith("depthwise_")
    size = ffi.new("int64_t[2]")
    capi.check(lib.pc_conv_output_size(desc, size, size + 1))
    assert list(size) == [H, W]
    work = sized(lambda size: lib.pc_depthwise_workspace_size(desc, pointer(packed), packed.size, nth, size))
    y = np.empty_like(wanted)
    on_threads(
        nth,
        lambda ith, of: lib.pc_depthwise_run(
            desc, pointer(packed), packed.size, pointer(x), pointer(y), pointer(work), work.size, ith, of
        ),
    )
    same_bits(y, wanted)


@pytest.mark.parametrize("nth", [1, 3])
def test_dense(nth):
    rng = np.random.default_rng(1)
    x = random_bytes(rng, np.uint8, B, H, W, C)
    weight = pc.Int8Weight.from_float(rng.standard_normal((N, C // 2, 3, 3)).astype(f32))
    wanted = pc.conv2d(x, weight, padding=1, groups=2, x_qparams=(0.5, 9), y_qparams=(0.75, 0))
    desc, y, k = image(outputs=N), np.empty_like(wanted), 9 * C // 2
    for group in range(2):
        rows = slice(group * N // 2, (group + 1) * N // 2)
        w, scale = weight.q[rows].transpose(0, 2, 3, 1).reshape(-1, k).copy(), weight.scale[rows].copy()
        packed = sized(lambda size: lib.pc_gemm_s8_pack_size(N // 2, k, size))
        at = pointer(packed)
        capi.check(
            lib.pc_gemm_s8_pack(pointer(w), lib.PC_S8, N // 2, k, k, 1, pointer(scale, "float *"), at, packed.size)
        )
        work = sized(lambda size, at=at, n=packed.size: lib.pc_conv_s8_workspace_size(desc, 2, at, n, nth, size))

        def run(ith, of, group=group, at=at, size=packed.size, work=work):
            return lib.pc_conv_s8_run(
                desc, group, 2, at, size, ffi.NULL, pointer(x), pointer(y), pointer(work), work.size, ith, of
            )

        on_threads(nth, run)
    same_bits(y, wanted)


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_dense_float32(nth, kernel, groups):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((B, H, W, C)).astype(f32)
    weight = rng.standard_normal((N, C // groups, kernel, kernel)).astype(f32)
    bias = rng.standard_normal(N).astype(f32)
    wanted = pc.conv2d(x, weight, bias, padding=kernel // 2, groups=groups, activation="relu6")
    pads = dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), kernel // 2)
    desc = image(
        outputs=N, kernel_height=kernel, kernel_width=kernel, x_type=lib.PC_F32, y_type=lib.PC_F32, x_zero_point=0,
        bias=pointer(bias, "float *"), activation=lib.PC_ACTIVATION_CLAMP, high=6, **pads,
    )  # fmt: skip
    y, n, k = np.empty_like(wanted), N // groups, kernel * kernel * C // groups
    work = sized(lambda size: lib.pc_conv_f32_workspace_size(desc, groups, nth, size))
    for group in range(groups):
        w = weight[group * n : (group + 1) * n].transpose(0, 2, 3, 1).reshape(n, k).copy()
        packed = sized(lambda size: lib.pc_gemm_f32_pack_size(n, k, size))
        capi.check(lib.pc_gemm_f32_pack(pointer(w, "float *"), n, k, k, 1, pointer(packed), packed.size))

        def run(ith, of, group=group, packed=packed):
            return lib.pc_conv_f32_run(
                desc, group, groups, pointer(packed), packed.size, pointer(x, "float *"), pointer(y, "float *"),
                pointer(work), work.size, ith, of,
            )  # fmt: skip

        on_threads(nth, run)
    same_bits(y, wanted)
    at = pointer(packed), packed.size, pointer(x, "float *"), pointer(y, "float *"), pointer(work)
    assert lib.pc_conv_f32_run(desc, groups, groups, *at, work.size, 0, 1) == lib.PC_ERROR_VALUE
    assert lib.pc_conv_f32_run(desc, 0, groups, *at, 64, 0, 1) == lib.PC_ERROR_BUFFER
    assert lib.pc_conv_f32_run(desc, 0, groups, *at[:2], at[3], *at[3:], work.size, 0, 1) == lib.PC_ERROR_OVERLAP
    assert lib.pc_conv_f32_workspace_size(desc, 11, nth, ffi.new("size_t *")) == lib.PC_ERROR_SHAPE
    # What is wrong with the bias or y is seen before the first tile is written.
    before = y.copy()
    for bias_at, y_at, status in (
        (at[3] + y.size - N, at[3], lib.PC_ERROR_OVERLAP),
        (ffi.cast("float *", ffi.cast("char *", desc.bias) + 1), at[3], lib.PC_ERROR_ALIGNMENT),
        (desc.bias, ffi.cast("float *", ffi.cast("char *", at[3]) + 1), lib.PC_ERROR_ALIGNMENT),
        (desc.bias, ffi.cast("float *", at[4]), lib.PC_ERROR_OVERLAP),
    ):
        other = ffi.new("pc_conv_desc *", desc[0])
        other.bias = bias_at
        assert lib.pc_conv_f32_run(other, 0, groups, *at[:3], y_at, at[4], work.size, 0, 1) == status
    same_bits(y, before)
    # A weight of another shape is refused by every part, by one that has no rows to compute too.
    wider = sized(lambda size: lib.pc_gemm_f32_pack_size(n, k + 1, size))
    w = np.zeros((n, k + 1), f32)
    capi.check(lib.pc_gemm_f32_pack(pointer(w, "float *"), n, k + 1, k + 1, 1, pointer(wider), wider.size))
    parts = 1000
    room = sized(lambda size: lib.pc_conv_f32_workspace_size(desc, groups, parts, size))
    for part in (0, parts - 1):
        status = lib.pc_conv_f32_run(
            desc, 0, groups, pointer(wider), wider.size, *at[2:4], pointer(room), room.size, part, parts
        )
        assert status == lib.PC_ERROR_SHAPE


def packed_pointwise(weight):
    """The packed bytes of a weight [N, C], by the call of its family."""
    n, k = weight.shape
    if isinstance(weight, pc.Int8Weight):
        packed = sized(lambda size: lib.pc_gemm_s8_pack_size(n, k, size))
        w, scale, at = pointer(weight.q), pointer(weight.scale, "float *"), pointer(packed)
        capi.check(lib.pc_gemm_s8_pack(w, lib.PC_S8, n, k, k, 1, scale, at, packed.size))
    elif isinstance(weight, np.ndarray):
        packed = sized(lambda size: lib.pc_gemm_f32_pack_size(n, k, size))
        capi.check(lib.pc_gemm_f32_pack(pointer(weight, "float *"), n, k, k, 1, pointer(packed), packed.size))
    else:
        s8 = weight.data.dtype == np.int8
        sparse = describe(
            "pc_sparse_matrix", type=lib.PC_S8 if s8 else lib.PC_F32, n=n, k=k, block_n=1, block_k=1,
            blocks=len(weight.data), data=pointer(weight.data), indices=pointer(weight.indices, "int32_t *"),
            indptr=pointer(weight.indptr, "int32_t *"),
            scale=pointer(weight.scale, "float *") if s8 else ffi.NULL,
        )  # fmt: skip
        packed = sized(lambda size: lib.pc_spmm_pack_size(sparse, size))
        capi.check(lib.pc_spmm_pack(sparse, pointer(packed), packed.size))
    return packed


# With 16 parts and rows of padding there are bands that read no row of x.
@pytest.mark.parametrize(("nth", "rows"), [(1, 1), (3, 1), (16, 40)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["int8", "float32", "sparse8", "sparse32", "mixed"])
def test_separable(nth, rows, stride, kind):
    rng = np.random.default_rng(5)
    depthwise = pc.DepthwiseWeight.from_float(
        rng.standard_normal((C, 1, 3, 3)).astype(f32), bits=8 if kind in ("int8", "sparse8") else 32
    )
    w = rng.standard_normal((N, C)).astype(f32)
    w[rng.random(w.shape) < 0.7] = 0
    pointwise = {
        "int8": lambda: pc.Int8Weight.from_float(w),
        "mixed": lambda: pc.Int8Weight.from_float(w),
        "float32": lambda: w,
        "sparse8": lambda: pc.CSRWeight.from_dense(w, bits=8),
        "sparse32": lambda: pc.CSRWeight.from_dense(w),
    }[kind]()
    bias, last_bias = rng.standard_normal(C).astype(f32), rng.standard_normal(N).astype(f32)
    quantized = depthwise.quantizes
    x = random_bytes(rng, np.uint8, B, H, W, C) if quantized else rng.standard_normal((B, H, W, C)).astype(f32)
    mid = pc.QParams(0.25, 3) if quantized or kind == "mixed" else None
    wanted = pc.separable_conv2d(
        x, depthwise, pointwise, bias, last_bias, stride=stride, padding=(rows, 1, rows, 1),
        depthwise_activation="relu6",
        x_qparams=(0.5, 9) if quantized else None, mid_qparams=mid, y_qparams=(0.75, 7) if quantized else None,
    )  # fmt: skip
    byte = lib.PC_U8 if quantized else lib.PC_F32
    desc = describe("pc_separable_desc", outputs=N, y_type=byte, bias=pointer(last_bias, "float *"))
    desc.depthwise = image(
        stride_height=stride, stride_width=stride, pad_top=rows, pad_bottom=rows, x_type=byte, y_type=byte,
        bias=pointer(bias, "float *"),
        activation=lib.PC_ACTIVATION_CLAMP, high=6, x_zero_point=9 if quantized else 0,
    )[0]  # fmt: skip
    if quantized:
        desc.depthwise.y_scale, desc.depthwise.y_zero_point, desc.y_scale, desc.y_zero_point = *mid, 0.75, 7
    elif mid:
        desc.mid_scale, desc.mid_zero_point = mid
    kind_of_w = lib.PC_S8 if quantized else lib.PC_F32
    first = sized(lambda size: lib.pc_depthwise_pack_size(kind_of_w, C, 3, 3, size))
    arrays = depthwise.q.copy(), depthwise.scale
    capi.check(
        lib.pc_depthwise_pack(
            pointer(arrays[0]), kind_of_w, C, 3, 3, pointer(arrays[1], "float *"), pointer(first), first.size
        )
    )
    second = packed_pointwise(pointwise)
    weights = pointer(first), first.size, pointer(second), second.size
    work = sized(lambda size: lib.pc_separable_workspace_size(desc, *weights, nth, size))
    # y ends where x begins, so that a larger y would overlap: a wrong shape is named first all the same.
    memory = np.empty(wanted.nbytes + x.nbytes, np.uint8)
    y = memory[: wanted.nbytes].view(wanted.dtype).reshape(wanted.shape)
    memory[wanted.nbytes :] = x.reshape(-1).view(np.uint8)
    x = memory[wanted.nbytes :].view(x.dtype)

    def run(ith, of, out=y, given=weights, room=work.size):
        return lib.pc_separable_run(desc, *given, pointer(x), pointer(out), pointer(work), room, ith, of)

    on_threads(nth, run)
    same_bits(y, wanted)
    others = work[work.size // nth :]
    others[:] = 0xA5
    assert run(0, nth) == lib.PC_OK
    assert (others == 0xA5).all(), "a part has written into those of others"
    assert run(0, nth, room=work.size - 1) == lib.PC_ERROR_BUFFER
    assert run(0, nth, out=x) == lib.PC_ERROR_OVERLAP
    assert run(0, nth, given=(*weights[:2], *weights[:2])) == lib.PC_ERROR_FORMAT
    same_bits(y, wanted)
    for owner in (desc, desc.depthwise):
        kept, owner.bias = owner.bias, pointer(y, "float *")
        assert run(0, nth) == lib.PC_ERROR_OVERLAP
        owner.bias = ffi.cast("float *", ffi.cast("char *", kept) + 1)
        assert run(0, nth) == lib.PC_ERROR_ALIGNMENT
        owner.bias = kept
    assert run(0, nth, out=work) == lib.PC_ERROR_OVERLAP
    same_bits(y, wanted)
    desc.outputs = N + 1
    assert run(0, nth) == lib.PC_ERROR_SHAPE
    desc.size = 8
    assert run(0, nth) == lib.PC_ERROR_STRUCT


def test_rows_of_im2col():
    x = random_bytes(np.random.default_rng(2), np.uint8, B, H, W, C)
    desc, rows = image(), np.empty((40, 3, 3, 5), np.uint8)
    capi.check(lib.pc_im2col_run(desc, pointer(x), 60, 5, 30, 40, pointer(rows)))
    padded = np.pad(x[..., 60:65], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=9)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2)).transpose(0, 1, 2, 4, 5, 3)
    same_bits(rows, windows.reshape(-1, 3, 3, 5)[30:70])
    assert lib.pc_im2col_run(desc, pointer(x), 66, 5, 0, 1, pointer(rows)) == lib.PC_ERROR_SHAPE
    assert lib.pc_im2col_run(desc, pointer(x), 0, 5, B * H * W, 1, pointer(rows)) == lib.PC_ERROR_SHAPE
    assert lib.pc_im2col_run(desc, pointer(x), 2**63 - 1, 5, 0, 1, pointer(rows)) == lib.PC_ERROR_SHAPE
    large = {"kernel_height": 2**31, "kernel_width": 2**31, "pad_top": 2**31, "pad_left": 2**31, "outputs": 0}
    assert lib.pc_im2col_run(image(**large), pointer(x), 0, 70, 0, 1, pointer(rows)) == lib.PC_ERROR_OVERFLOW
    assert lib.pc_im2col_run(image(x_zero_point=256), pointer(x), 0, 5, 0, 1, pointer(rows)) == lib.PC_ERROR_VALUE


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (3, 1), (2, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, f32])
def test_rows_of_im2col_end_where_they_end(dtype, kernel, channels):
    rng = np.random.default_rng(7)
    x = rng.integers(0, 256, (1, 5, 40, channels)).astype(dtype)
    windows = np.lib.stride_tricks.sliding_window_view(x[0], kernel, (0, 1)).transpose(0, 1, 3, 4, 2)
    wanted = windows.reshape(-1, math.prod(windows.shape[2:]))
    desc = image(
        batch=1, height=5, width=40, channels=channels, outputs=1, kernel_height=kernel[0], kernel_width=kernel[1],
        x_type=TYPES[np.dtype(dtype).name], pad_top=0, pad_left=0, pad_bottom=0, pad_right=0,
    )  # fmt: skip
    for first, count in ((0, len(wanted)), (30, 16), (3, 1), (2, 35)):
        rows = wanted[first : first + count]
        memory = np.full(rows.nbytes + 64, 0xA5, np.uint8)
        capi.check(lib.pc_im2col_run(desc, pointer(x), 0, channels, first, count, pointer(memory)))
        same_bits(memory[: rows.nbytes].view(dtype).reshape(rows.shape), rows)
        assert (memory[rows.nbytes :] == 0xA5).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_dense_names_a_wrong_shape_before_an_overlap_that_follows_from_it(groups):
    x, w = random_bytes(np.random.default_rng(6), np.uint8, B, H, W, C), np.ones((N // groups, C // groups), np.int8)
    packed = sized(lambda size: lib.pc_gemm_s8_pack_size(*w.shape, size))
    capi.check(
        lib.pc_gemm_s8_pack(pointer(w), lib.PC_S8, *w.shape, w.shape[1], 1, ffi.NULL, pointer(packed), packed.size)
    )
    small = {"kernel_height": 1, "kernel_width": 1, "pad_top": 0, "pad_left": 0, "pad_bottom": 0, "pad_right": 0}
    memory, work = np.empty(B * H * W * N + x.size, np.uint8), aligned(1 << 18)
    memory[-x.size :] = x.reshape(-1)
    statuses = []
    for outputs in (N, 2 * N):
        desc = image(outputs=outputs, **small)
        for group in range(groups):
            statuses.append(
                lib.pc_conv_s8_run(
                    desc, group, groups, pointer(packed), packed.size, ffi.NULL, pointer(memory[-x.size :]),
                    pointer(memory), pointer(work), work.size, 0, 1,
                )
            )  # fmt: skip
    assert statuses == groups * [lib.PC_OK] + groups * [lib.PC_ERROR_SHAPE]


def test_layout_and_quantization():
    rng = np.random.default_rng(3)
    for element, dtype in ((1, np.uint8), (4, f32)):
        x = (rng.standard_normal((3, 67, 131)) * 50).astype(np.int8).view(np.uint8).astype(dtype)
        y = np.empty((3, 131, 67), dtype)
        on_threads(
            2, lambda i, n, x=x, y=y, e=element: lib.pc_transpose_run(pointer(x), 3, 67, 131, e, pointer(y), i, n)
        )
        same_bits(y, x.transpose(0, 2, 1))
    assert lib.pc_transpose_run(pointer(x), 3, 67, 131, 2, pointer(y), 0, 1) == lib.PC_ERROR_TYPE
    x, y = rng.standard_normal(1000).astype(f32), np.empty(1000, np.uint8)
    at = pointer(x, "float *"), 1000, 0.01, 120, pointer(y, "uint8_t *")
    on_threads(3, lambda ith, nth: lib.pc_quantize_by_run(*at, ith, nth))
    same_bits(y, np.clip(np.rint(x * (f32(1) / f32(0.01))) + f32(120), 0, 255).astype(np.uint8))
    x[7] = np.nan
    assert lib.pc_quantize_by_run(*at, 0, 1) == lib.PC_ERROR_NONFINITE
