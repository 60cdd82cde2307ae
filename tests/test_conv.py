"""depthwise_conv2d, conv2d, separable_conv2d, conv_integer and qlinear_conv against docs/exactness.md in int64."""

import itertools
import math
import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import f32, random_bytes, same_bits

import pycompress as pc

EIGHT_BITS = [np.uint8, np.int8]


def sums(x, w, zero_point, geometry, groups=1):
    """int64 [B, oh, ow, O] of x [B, H, W, C] by w [O, C / groups, kh, kw]; the padding counts zero."""
    sh, sw, dh, dw, top, left, bottom, right = geometry
    pixels = np.pad(x.astype(np.int64) - zero_point, ((0, 0), (top, bottom), (left, right), (0, 0)))
    outputs, inputs, kh, kw = w.shape
    oh = (pixels.shape[1] - (kh - 1) * dh - 1) // sh + 1
    ow = (pixels.shape[2] - (kw - 1) * dw - 1) // sw + 1
    y = np.zeros((len(x), oh, ow, outputs), np.int64)
    each = outputs // groups
    for a, b, g in itertools.product(range(kh), range(kw), range(groups)):
        part = pixels[:, a * dh :, b * dw :, g * inputs : (g + 1) * inputs]
        part = part[:, : (oh - 1) * sh + 1 : sh, : (ow - 1) * sw + 1 : sw]
        rows = slice(g * each, (g + 1) * each)
        y[..., rows] += np.einsum("bhwi,oi->bhwo", part, w[rows, :, a, b].astype(np.int64))
    return y


def finished(acc, x_scale, w_scale, bias, activation, y_qparams, dtype):
    """The last step, as that of linear."""
    flat = acc.reshape(-1, acc.shape[-1])
    if y_qparams is None:
        y = reference.float_result(flat, x_scale, w_scale, bias, activation)
    else:
        y = reference.quantized_result(flat, x_scale, w_scale, bias, activation, y_qparams, dtype)
    return y.reshape(acc.shape)


@st.composite
def convolutions(draw, depthwise=False):
    """Sizes, geometry and groups of a convolution whose image is no smaller than its kernel."""
    kernel = draw(st.sampled_from([(3, 3), (5, 5), (3, 3), (1, 1), (2, 4), (4, 1), (5, 2)]))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 1), (2, 2), (3, 1), (1, 3), (3, 3)]))
    dilation = draw(st.sampled_from([(1, 1)] * 4 + [(2, 1), (2, 2)]))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    for i in range(2):
        if size[i] + padding[i] + padding[i + 2] < (kernel[i] - 1) * dilation[i] + 1:
            padding = (3, 3, 3, 3)
            dilation = (1, 1)
    channels = draw(st.integers(1, 70)) if depthwise else draw(st.integers(1, 9))
    groups = 1 if depthwise else draw(st.sampled_from([1, 1, 2, 3]))
    outputs = channels * draw(st.sampled_from([1, 1, 1, 2])) if depthwise else groups * draw(st.integers(1, 20))
    return draw(st.integers(1, 2)), size, channels * groups, outputs, kernel, stride, dilation, padding, groups


def arguments(rng, case, x_type, y_quantized, activation, extremes):
    batch, size, channels, outputs, _, stride, dilation, padding, _ = case
    x = random_bytes(rng, x_type, batch, *size, channels)
    if extremes:
        x[:] = np.iinfo(x_type).max
    zero_point = int(rng.choice([np.iinfo(x_type).min, np.iinfo(x_type).max, random_bytes(rng, x_type)]))
    geometry = (*stride, *dilation, *padding)
    bias = rng.standard_normal(outputs).astype(f32)
    scale = rng.uniform(0.01, 0.02, outputs).astype(f32)
    y_qparams = (0.7, int(random_bytes(rng, x_type))) if y_quantized else None
    options = {
        "stride": stride, "dilation": dilation, "padding": padding, "activation": activation,
        "x_qparams": (0.02, zero_point), "y_qparams": y_qparams,
    }  # fmt: skip
    return x, zero_point, geometry, bias, scale, y_qparams, options


@given(
    convolutions(depthwise=True), st.sampled_from(EIGHT_BITS), st.booleans(), st.sampled_from(reference.ACTIVATIONS),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_depthwise_int8(way, case, x_type, y_quantized, activation, extremes, seed):
    rng = np.random.default_rng(seed)
    x, zero_point, geometry, bias, scale, y_qparams, options = arguments(
        rng, case, x_type, y_quantized, activation, extremes
    )
    q = random_bytes(rng, np.int8, case[3], 1, *case[4])
    if extremes:
        q[:] = -128
    times = case[3] // case[2]
    acc = sums(np.repeat(x, times, -1), q, zero_point, geometry, case[3])
    got = pc.depthwise_conv2d(x, pc.DepthwiseWeight(q, scale), bias, **options)
    way.ran("depthwise_s8")
    same_bits(got, finished(acc, f32(0.02), scale, bias, activation, y_qparams, x_type))


@given(
    convolutions(),
    st.sampled_from(EIGHT_BITS),
    st.booleans(),
    st.sampled_from(reference.ACTIVATIONS),
    st.integers(0, 99),
)
def test_conv2d_int8(way, case, x_type, y_quantized, activation, seed):
    rng = np.random.default_rng(seed)
    x, zero_point, geometry, bias, scale, y_qparams, options = arguments(
        rng, case, x_type, y_quantized, activation, False
    )
    groups = case[-1]
    q = random_bytes(rng, np.int8, case[3], case[2] // groups, *case[4])
    acc = sums(x, q, zero_point, geometry, groups)
    wanted = finished(acc, f32(0.02), scale, bias, activation, y_qparams, x_type)
    weight = pc.Int8Weight(q, scale)
    same_bits(pc.conv2d(x, weight, bias, groups=groups, **options), wanted)
    nchw = x.transpose(0, 3, 1, 2)
    same_bits(pc.conv2d(nchw, weight, bias, groups=groups, layout="NCHW", **options), wanted.transpose(0, 3, 1, 2))


@given(convolutions(depthwise=True), st.sampled_from(reference.ACTIVATIONS), st.integers(0, 99))
def test_depthwise_float32(way, case, activation, seed):
    rng = np.random.default_rng(seed)
    batch, size, channels, outputs, kernel, stride, dilation, padding, _ = case
    x = rng.standard_normal((batch, *size, channels)).astype(f32)
    w, bias = rng.standard_normal((outputs, 1, *kernel)).astype(f32), rng.standard_normal(outputs).astype(f32)
    weight = pc.DepthwiseWeight.from_float(w, bits=32)
    got = pc.depthwise_conv2d(x, weight, bias, stride=stride, dilation=dilation, padding=padding, activation=activation)
    way.ran("depthwise_f32")
    check_float(
        got, np.repeat(x, outputs // channels, -1), w, bias, (*stride, *dilation, *padding), outputs, activation
    )


@given(convolutions(), st.integers(0, 99))
def test_conv2d_float32(way, case, seed):
    rng = np.random.default_rng(seed)
    batch, size, channels, outputs, kernel, stride, dilation, padding, groups = case
    x = rng.standard_normal((batch, *size, channels)).astype(f32)
    w = rng.standard_normal((outputs, channels // groups, *kernel)).astype(f32)
    bias = rng.standard_normal(outputs).astype(f32)
    got = pc.conv2d(x, w, bias, stride=stride, dilation=dilation, padding=padding, groups=groups)
    check_float(got, x, w, bias, (*stride, *dilation, *padding), groups, None)


def check_float(got, x, w, bias, geometry, groups, activation):
    """Within the error of summing in float32, and of the activation's slope of at most 1.5."""
    exact = float_sums(x.astype(np.float64), w.astype(np.float64), geometry, groups)
    size = float_sums(np.abs(x).astype(np.float64), np.abs(w).astype(np.float64), geometry, groups) + np.abs(bias)
    wanted = reference.activate((exact + bias).astype(f32), activation)
    error = 1.5 * (w[0].size + 4) * 2.0**-24 * size + 2e-6
    assert got.dtype == f32
    assert (np.abs(got - wanted.astype(np.float64)) <= error + 1e-5 * np.abs(wanted)).all()


def float_sums(x, w, geometry, groups):
    scale = 2.0**40  # so that sums() does it: exact enough in int64 for these magnitudes
    return sums(np.rint(x * 2.0**20), np.rint(w * 2.0**20), 0, geometry, groups) / scale


def test_image_is_quantized_by_its_own_range(way, rng):
    x = rng.standard_normal((2, 6, 7, 20)).astype(f32)
    _, scale, zero_point = pc.dynamic_quantize_linear(x)
    level = np.clip(np.rint(x * (f32(1) / scale)) + f32(zero_point), 0, 255).astype(np.uint8)
    depthwise = pc.DepthwiseWeight.from_float(rng.standard_normal((20, 1, 3, 3)).astype(f32))
    dense = pc.Int8Weight.from_float(rng.standard_normal((9, 20, 3, 3)).astype(f32))
    qparams = float(scale), int(zero_point)
    for operation, weight in ((pc.depthwise_conv2d, depthwise), (pc.conv2d, dense)):
        wanted = operation(level, weight, padding=1, x_qparams=qparams)
        same_bits(operation(x, weight, padding=1), wanted)
        same_bits(operation(x, weight, padding=1, x_qparams=qparams), wanted)
        zeros = np.zeros((1, 4, 4, 20), f32)
        same_bits(operation(zeros, weight), np.zeros((1, 2, 2, weight.shape[0]), f32))


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding(rng, size, stride):
    x = random_bytes(rng, np.uint8, 1, size, size, 4)
    weight = pc.DepthwiseWeight.from_float(rng.standard_normal((4, 1, 3, 3)).astype(f32))
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    pads = (total // 2, total // 2, total - total // 2, total - total // 2)
    options = {"stride": stride, "x_qparams": (0.1, 3)}
    got = pc.depthwise_conv2d(x, weight, padding="same", **options)
    assert got.shape[1] == -(-size // stride)
    same_bits(got, pc.depthwise_conv2d(x, weight, padding=pads, **options))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_out_and_layout(rng, threads):
    x = random_bytes(rng, np.uint8, 3, 33, 31, 70)
    weight = pc.DepthwiseWeight.from_float(rng.standard_normal((70, 1, 3, 3)).astype(f32))
    dense = pc.Int8Weight.from_float(rng.standard_normal((40, 70, 3, 3)).astype(f32))
    options = {"padding": 1, "x_qparams": (0.1, 3), "y_qparams": (0.4, 7)}
    for operation, w in ((pc.depthwise_conv2d, weight), (pc.conv2d, dense)):
        wanted = operation(x, w, num_threads=1, **options)
        out = np.empty_like(wanted)
        assert operation(x, w, num_threads=threads, out=out, **options) is out
        same_bits(out, wanted)
        wide = np.empty((*out.shape[:3], 2 * out.shape[3]), np.uint8)[..., ::2]
        operation(x, w, num_threads=threads, out=wide, **options)
        same_bits(wide, wanted)
        nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        same_bits(operation(nchw, w, layout="NCHW", **options), wanted.transpose(0, 3, 1, 2))


def test_pointwise_takes_any_matrix(rng):
    x = rng.standard_normal((1, 5, 6, 24)).astype(f32)
    a, b = rng.standard_normal((10, 4)).astype(f32), rng.standard_normal((4, 24)).astype(f32)
    for weight in (pc.LowRankWeight(a, b), pc.Int8Weight.from_float(a @ b), a @ b):
        qparams = {"x_qparams": (0.05, 128)} if isinstance(weight, pc.Int8Weight) else {}
        wanted = pc.linear(x.reshape(30, 24), weight, **qparams).reshape(1, 5, 6, 10)
        np.testing.assert_allclose(pc.conv2d(x, weight, **qparams), wanted, rtol=1e-5, atol=1e-5)
        strided = pc.conv2d(x, weight, stride=2, **qparams)
        np.testing.assert_allclose(strided, wanted[:, ::2, ::2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("x_type", EIGHT_BITS)
def test_separable_is_both_in_turn(way, rng, x_type):
    x = random_bytes(rng, x_type, 2, 15, 13, 40)
    depthwise = pc.DepthwiseWeight.from_float(rng.standard_normal((40, 1, 3, 3)).astype(f32))
    pointwise = pc.Int8Weight.from_float(rng.standard_normal((50, 40)).astype(f32))
    biases = rng.standard_normal(40).astype(f32), rng.standard_normal(50).astype(f32)
    low = int(np.iinfo(x_type).min)
    mid, last = (0.5, low + 10), (2.0, low + 100)
    for stride, y_qparams in itertools.product((1, 2), (None, last)):
        first = pc.depthwise_conv2d(
            x,
            depthwise,
            biases[0],
            stride=stride,
            padding=1,
            activation="relu6",
            x_qparams=(0.03, low + 7),
            y_qparams=mid,
        )
        wanted = pc.conv2d(first, pointwise, biases[1], activation="relu", x_qparams=mid, y_qparams=y_qparams)
        got = pc.separable_conv2d(
            x, depthwise, pointwise, *biases, stride=stride, padding=1, depthwise_activation="relu6", activation="relu",
            mid_qparams=mid, x_qparams=(0.03, low + 7), y_qparams=y_qparams,
        )  # fmt: skip
        same_bits(got, wanted)


def test_separable_float32(way, rng):
    x = rng.standard_normal((1, 17, 12, 24)).astype(f32)
    depthwise = pc.DepthwiseWeight.from_float(rng.standard_normal((24, 1, 3, 3)).astype(f32), bits=32)
    pointwise = rng.standard_normal((30, 24)).astype(f32)
    wanted = pc.conv2d(pc.depthwise_conv2d(x, depthwise, padding=1, activation="relu"), pointwise, activation="relu6")
    got = pc.separable_conv2d(x, depthwise, pointwise, padding=1, depthwise_activation="relu", activation="relu6")
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    int8 = pc.Int8Weight.from_float(pointwise)
    for mid in (None, (0.05, 100)):
        first = pc.depthwise_conv2d(x, depthwise)
        same_bits(pc.separable_conv2d(x, depthwise, int8, mid_qparams=mid), pc.conv2d(first, int8, x_qparams=mid))


# So wide that a band is 2 rows: those within the image read more rows of x than the first one.
@pytest.mark.parametrize(("kernel", "padding", "dilation"), [(3, 1, 1), (3, 2, 2), (5, 2, 1)])
def test_separable_bands_of_few_rows(rng, kernel, padding, dilation):
    x = rng.standard_normal((1, 9, 20, 6600)).astype(f32)
    depthwise = pc.DepthwiseWeight.from_float(rng.standard_normal((6600, 1, kernel, kernel)).astype(f32))
    pointwise = pc.Int8Weight.from_float(rng.standard_normal((4, 6600)).astype(f32))
    shape = {"padding": padding, "dilation": dilation}
    wanted = pc.conv2d(pc.depthwise_conv2d(x, depthwise, **shape), pointwise, x_qparams=(0.1, 100))
    same_bits(pc.separable_conv2d(x, depthwise, pointwise, mid_qparams=(0.1, 100), **shape), wanted)


@pytest.mark.parametrize("operand", ["x", "depthwise.q", "depthwise_bias", "weight.w", "bias"])
def test_separable_refuses_to_write_over_an_operand(rng, operand):
    memory = rng.standard_normal(400).astype(f32)
    arrays = {"x": (1, 6, 6, 8), "depthwise.q": (8, 1, 3, 3), "depthwise_bias": (8,), "weight.w": (4, 8), "bias": (4,)}
    given = {name: memory[: math.prod(s)].reshape(s).copy() for name, s in arrays.items()}
    given[operand] = memory[: given[operand].size].reshape(arrays[operand])
    x, q, depthwise_bias, w, bias = given.values()
    out, before = memory[3:147].reshape(1, 6, 6, 4), memory.copy()
    kinds = [(pc.Float32Weight(w), None)]
    if operand != "weight.w":
        kinds += [(w, None), (pc.Int8Weight.from_float(w), (0.1, 9)), (pc.Int8Weight.from_float(w), None)]
    for pointwise, mid in kinds:
        arguments = {"padding": 1, "mid_qparams": mid}
        weight = pc.DepthwiseWeight(q)
        for _ in range(2):  # by the fast way, too, once the weights are packed
            with pytest.raises(ValueError, match=f"out shares memory with {operand}"):
                pc.separable_conv2d(x, weight, pointwise, depthwise_bias, bias, out=out, **arguments)
            pc.separable_conv2d(x, weight, pointwise, depthwise_bias, bias, **arguments)
        same_bits(memory, before)


def test_weights_of_any_alignment_and_strides(rng):
    x, w = rng.standard_normal((1, 5, 6, 8)).astype(f32), rng.standard_normal((4, 8)).astype(f32)
    askew = np.empty(w.nbytes + 1, np.uint8)[1:].view(f32).reshape(w.shape)
    askew[...] = w
    same_bits(pc.conv2d(x, askew), pc.conv2d(x, w))
    every_other = np.zeros((4, 8, 1, 1, 4), np.int8)
    every_other[..., 0] = rng.integers(-9, 9, (4, 8, 1, 1))
    weight = pc.Int8Weight(every_other[..., 0], np.ones(4, f32))
    pc.conv2d(x, weight)
    out = every_other.reshape(-1).view(f32)[:24].reshape(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"out shares memory with weight\.q"):
        pc.conv2d(x[:, :2, :3], weight, out=out)


def test_separable_bands_in_the_padding(rng):
    x = random_bytes(rng, np.uint8, 1, 2, 1500, 40)
    depthwise = pc.DepthwiseWeight.from_float(rng.standard_normal((40, 1, 3, 3)).astype(f32))
    pointwise = pc.Int8Weight.from_float(rng.standard_normal((8, 40)).astype(f32))
    mid = {"x_qparams": (0.03, 7), "padding": (30, 1, 30, 1)}
    wanted = pc.conv2d(pc.depthwise_conv2d(x, depthwise, y_qparams=(0.5, 10), **mid), pointwise, x_qparams=(0.5, 10))
    same_bits(pc.separable_conv2d(x, depthwise, pointwise, mid_qparams=(0.5, 10), **mid), wanted)


# ---- ONNX


@given(convolutions(), st.sampled_from(EIGHT_BITS), st.sampled_from(EIGHT_BITS), st.booleans(), st.integers(0, 99))
def test_conv_integer(way, case, x_type, w_type, per_output, seed):
    rng = np.random.default_rng(seed)
    batch, size, channels, outputs, kernel, stride, dilation, padding, groups = case
    x = random_bytes(rng, x_type, batch, *size, channels)
    w = random_bytes(rng, w_type, outputs, channels // groups, *kernel)
    zx, zw = random_bytes(rng, x_type, 1), random_bytes(rng, w_type, outputs if per_output else 1)
    wide = w.astype(np.int64) - zw.astype(np.int64).reshape(-1, 1, 1, 1)
    acc = sums(x, wide, int(zx[0]), (*stride, *dilation, *padding), groups).transpose(0, 3, 1, 2)
    options = {"strides": stride, "pads": padding, "dilations": dilation, "group": groups}
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    same_bits(pc.conv_integer(nchw, w, zx, zw, **options), acc.astype(np.int32))
    scale, y_type = rng.uniform(0.01, 0.02, outputs).astype(f32), rng.choice(EIGHT_BITS)
    bias = rng.integers(-(10**4), 10**4, outputs, np.int32)
    if seed % 3 == 0:
        bias[0] = 2**31 - 1
    got = pc.qlinear_conv(nchw, f32(0.02), zx[0], w, scale, zw, f32(0.3), y_type(9), bias, **options)
    info = np.iinfo(np.int32)
    total = np.clip(acc + bias.reshape(-1, 1, 1), info.min, info.max).astype(f32)
    level = np.rint(total * (f32(0.02) * scale / f32(0.3)).reshape(-1, 1, 1)) + f32(9)
    limits = np.iinfo(y_type)
    same_bits(got, np.clip(level, limits.min, limits.max).astype(y_type))


@pytest.mark.parametrize(("w_type", "zero_point"), [(np.int8, 0), (np.uint8, 128), (np.uint8, 3), (np.int8, -5)])
def test_conv_integer_depthwise_and_lines(way, rng, w_type, zero_point):
    x, w = random_bytes(rng, np.uint8, 2, 21, 6, 7), random_bytes(rng, w_type, 42, 1, 3, 3)
    wide = w.astype(np.int64) - zero_point
    acc = sums(x.transpose(0, 2, 3, 1), wide, 9, (1, 1, 1, 1, 1, 1, 1, 1), 21).transpose(0, 3, 1, 2)
    same_bits(pc.conv_integer(x, w, 9, w_type(zero_point), pads=1, group=21), acc.astype(np.int32))
    line, of_line = x[:, :, 0], w[:, :, 0]
    acc = sums(line[:, :, None].transpose(0, 2, 3, 1), wide[:, :, :1], 9, (1, 2, 1, 1, 0, 1, 0, 2), 21)
    got = pc.conv_integer(line, of_line, 9, w_type(zero_point), pads=(1, 2), strides=2, group=21)
    same_bits(got, acc.transpose(0, 3, 1, 2)[:, :, 0].astype(np.int32))


# ---- weights and misuse


def test_depthwise_weight(rng):
    w = rng.standard_normal((6, 1, 3, 3)).astype(f32)
    int8, real = pc.DepthwiseWeight.from_float(w), pc.DepthwiseWeight.from_float(w, bits=32)
    assert (int8.shape, int8.nbytes, real.nbytes) == ((6, 1, 3, 3), 6 * 9 + 24, 6 * 9 * 4)
    same_bits(real.todense(), w)
    assert np.abs(int8.todense() - w).max() <= np.abs(w).max() / 254 * 1.001
    x = random_bytes(rng, np.uint8, 1, 5, 5, 6)
    again = pickle.loads(pickle.dumps(int8))
    same_bits(pc.depthwise_conv2d(x, again, x_qparams=(0.1, 0)), pc.depthwise_conv2d(x, int8, x_qparams=(0.1, 0)))
    with pytest.raises(ValueError, match="wanted a matrix"):
        pc.linear(np.zeros((1, 9), f32), int8)


X = np.zeros((1, 5, 5, 4), np.uint8)
W = pc.DepthwiseWeight(np.ones((4, 1, 3, 3), np.int8), np.ones(4, f32))
DENSE = pc.Int8Weight(np.ones((2, 4, 3, 3), np.int8), np.ones(2, f32))
S = np.ones(4, f32)
ONE = pc.DepthwiseWeight(np.ones((4, 1, 1, 1), np.int8), S)
LONG = pc.Int8Weight(np.ones((1, 8000, 3, 3), np.int8), S[:1])
Q = {"x_qparams": (0.1, 0)}


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, "wanted a DepthwiseWeight", lambda: pc.depthwise_conv2d(X, DENSE, **Q)),
        (TypeError, "x is an array of float64", lambda: pc.depthwise_conv2d(X.astype(float), W)),
        (TypeError, "stride is 1.5", lambda: pc.depthwise_conv2d(X, W, stride=1.5, **Q)),
        (TypeError, "out is an array of float32", lambda: pc.depthwise_conv2d(
            X, W, out=np.empty((1, 3, 3, 4), f32), y_qparams=(1.0, 0), **Q)),
        (ValueError, "stride is 0", lambda: pc.depthwise_conv2d(X, W, stride=0, **Q)),
        (ValueError, "padding is -1", lambda: pc.conv2d(X, DENSE, padding=-1, **Q)),
        (ValueError, "padding is 'valid'", lambda: pc.conv2d(X, DENSE, padding="valid", **Q)),
        (ValueError, "padding is", lambda: pc.conv2d(X, DENSE, padding=(1, 2, 3), **Q)),
        (ValueError, "dilation is", lambda: pc.conv2d(X, DENSE, dilation=(1, 0), **Q)),
        (ValueError, "no smaller than the kernel", lambda: pc.depthwise_conv2d(X[:, :2], W, **Q)),
        (ValueError, "layout is 'NHCW'", lambda: pc.conv2d(X, DENSE, layout="NHCW", **Q)),
        (ValueError, "x has shape", lambda: pc.depthwise_conv2d(X[0], W, **Q)),
        (ValueError, "wanted a multiple of the channels", lambda: pc.depthwise_conv2d(X[..., :3], W, **Q)),
        (ValueError, "wanted 4 channels", lambda: pc.conv2d(X[..., :3], DENSE, **Q)),
        (ValueError, "x_qparams is None", lambda: pc.depthwise_conv2d(X, W)),
        (ValueError, "y_qparams is given with float32 x", lambda: pc.conv2d(X.astype(f32), DENSE, y_qparams=(1.0, 0))),
        (ValueError, "bias has shape", lambda: pc.depthwise_conv2d(X, W, np.zeros(3, f32), **Q)),
        (ValueError, "NaN", lambda: pc.depthwise_conv2d(np.full(X.shape, np.nan, f32), W)),
        (ValueError, "NaN", lambda: pc.conv2d(np.full(X.shape, np.nan, f32), DENSE)),
        (ValueError, "shares memory", lambda: pc.depthwise_conv2d(X, W, padding=1, out=X, y_qparams=(1.0, 0), **Q)),
        (ValueError, "shares memory with weight.scale", lambda: pc.depthwise_conv2d(
            np.zeros((1, 1, 1, 4), f32), ONE, out=S.reshape(1, 1, 1, 4))),
        (ValueError, "group", lambda: pc.conv_integer(X, X, group=3)),
        (ValueError, "bits is 4", lambda: pc.DepthwiseWeight.from_float(np.ones((1, 1, 3, 3), f32), bits=4)),
        (TypeError, "scale is None", lambda: pc.DepthwiseWeight(np.ones((1, 1, 3, 3), np.int8))),
        (OverflowError, "k is", lambda: pc.conv2d(
            np.zeros((1, 3, 3, 8000), np.uint8), LONG, **Q)),
    ],
)  # fmt: skip
def test_misuse(error, match, call):
    with pytest.raises(error, match=match):
        call()


def test_empty(rng):
    for shape in ((0, 5, 5, 4), (1, 5, 5, 4)):
        y = pc.depthwise_conv2d(np.zeros(shape, np.uint8), W, x_qparams=(0.1, 0))
        assert y.shape == (shape[0], 3, 3, 4)
        assert pc.conv2d(np.zeros(shape, f32), np.zeros((0, 4, 3, 3), f32)).shape == (shape[0], 3, 3, 0)


@pytest.mark.parametrize("kind", [pc.Float16Weight, pc.Float32Weight])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv2d_with_packed_floats(way, rng, kind, groups):
    w = rng.standard_normal((6, 4 // groups, 3, 2)).astype(np.float32)
    x, weight = rng.standard_normal((2, 7, 8, 4)).astype(np.float32), kind.from_float(w)
    wanted = pc.conv2d(x, weight.todense(), padding=1, groups=groups)
    for _ in range(2):  # the second call takes the fast path
        assert np.array_equal(pc.conv2d(x, weight, padding=1, groups=groups), wanted)
