"""Pooling and addition against their definitions, pixel by pixel."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import EIGHT_BITS, f32, random_bytes, same_bits

import pycompress as pc

DTYPES = [np.float32, *EIGHT_BITS]


def image(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(f32) * 9 if dtype == np.float32 else random_bytes(rng, dtype, *shape)


def windows(x, kernel, stride, padding, dilation=(1, 1)):
    """Rows of y, each a list of [pixels, C] arrays: what lies under each window and in the image, row by row."""
    _, height, width, _ = x.shape
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip((height, width), kernel, stride, padding, dilation, strict=True)
    ]

    def pixels(picture, i, j):
        taps = itertools.product(range(kernel[0]), range(kernel[1]))
        where = [
            (i * stride[0] - padding[0] + p * dilation[0], j * stride[1] - padding[1] + q * dilation[1])
            for p, q in taps
        ]
        inside = [picture[h, v] for h, v in where if 0 <= h < height and 0 <= v < width]
        return np.array(inside, x.dtype).reshape(-1, x.shape[3])

    return [[[pixels(picture, i, j) for j in range(sizes[1])] for i in range(sizes[0])] for picture in x]


def each(x, function, *geometry):
    return np.array([[[function(p) for p in row] for row in rows] for rows in windows(x, *geometry)])


def maximum(pixels):
    info = np.iinfo(pixels.dtype) if pixels.dtype != np.float32 else None
    return pixels.max(axis=0, initial=-np.inf if info is None else info.min)


def average(taps, scale=None, zero_point=0, y=None):
    """The mean of the pixels, or their sum by `taps`. In 8 bits by scale and zero point, y both."""

    def of(pixels):
        count = f32(taps or len(pixels))
        if pixels.dtype == np.float32:
            total = np.zeros(pixels.shape[1], f32)
            for pixel in pixels:
                total += pixel
            return total / count
        total = (pixels.astype(np.int32) - zero_point).sum(axis=0).astype(f32)
        if y is None and scale is not None:
            return total * f32(f32(scale) / count)
        ratio = f32(1) if scale is None else f32(scale) / f32(y[0])
        info, y_zero = np.iinfo(pixels.dtype), zero_point if y is None else y[1]
        return np.clip(np.rint(total * f32(ratio / count)) + y_zero, info.min, info.max).astype(pixels.dtype)

    return of


GEOMETRIES = [
    ((1, 1), (1, 1), (0, 0)),
    ((2, 2), (2, 2), (0, 0)),
    ((3, 3), (2, 2), (1, 1)),
    ((3, 2), (1, 3), (1, 0)),
    ((5, 4), (2, 1), (2, 2)),
]
geometries = pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)


@geometries
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 63, 64, 65, 130])
def test_max_pool2d(way, rng, dtype, channels, kernel, stride, padding):
    x = image(rng, dtype, 2, 7, 6, channels)
    got = pc.max_pool2d(x, kernel, stride=stride, padding=padding)
    way.ran("pool")
    same_bits(got, each(x, maximum, kernel, stride, padding))


@pytest.mark.parametrize("dtype", DTYPES)
def test_max_pool2d_dilated(way, rng, dtype):
    x = image(rng, dtype, 1, 9, 8, 5)
    for kernel, dilation in (((2, 2), (3, 2)), ((3, 3), (2, 2))):
        got = pc.max_pool2d(x, kernel, stride=(1, 2), padding=1, dilation=dilation)
        same_bits(got, each(x, maximum, kernel, (1, 2), (1, 1), dilation))


def test_max_of_nan_and_infinity(way):
    x = np.full((1, 2, 2, 70), -np.inf, f32)
    assert np.all(pc.max_pool2d(x, 2) == -np.inf)
    for channel, pixel in itertools.product((0, 33, 69), range(4)):
        y = x.copy()
        y.reshape(4, 70)[pixel, channel] = np.nan
        got = pc.max_pool2d(y, 2)[0, 0, 0]
        assert np.isnan(got[channel])
        assert np.isnan(got).sum() == 1


@geometries
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_average_pool2d(way, rng, dtype, include, kernel, stride, padding):
    x = image(rng, dtype, 2, 7, 6, 67)
    options = {"stride": stride, "padding": padding, "count_include_pad": include}
    taps = kernel[0] * kernel[1] if include else None
    if dtype == np.float32:
        same_bits(pc.average_pool2d(x, kernel, **options), each(x, average(taps), kernel, stride, padding))
        return
    zero_point = 3 if dtype == np.int8 else 119
    for y in (None, (0.013, 7), (3.0, 100)):
        got = pc.average_pool2d(x, kernel, **options, x_qparams=(0.02, zero_point), y_qparams=y)
        same_bits(got, each(x, average(taps, 0.02, zero_point, y), kernel, stride, padding))
    if not (include and any(padding)):
        same_bits(pc.average_pool2d(x, kernel, **options), each(x, average(taps), kernel, stride, padding))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 7, 7, 1280), (3, 1, 1, 5), (2, 4, 9, 64)])
def test_global_average_pool(way, rng, dtype, shape):
    x = image(rng, dtype, *shape)
    size = shape[1:3]
    same_bits(pc.global_average_pool(x), each(x, average(None), size, (1, 1), (0, 0)))
    if dtype != np.float32:
        got = pc.global_average_pool(x, x_qparams=(0.5, 9), y_qparams=(0.3, 2))
        same_bits(got, each(x, average(None, 0.5, 9, (0.3, 2)), size, (1, 1), (0, 0)))


def test_extremes_do_not_overflow(way):
    for dtype, value in itertools.product(EIGHT_BITS, ("min", "max")):
        edge = getattr(np.iinfo(dtype), value)
        x = np.full((1, 200, 200, 3), edge, dtype)
        assert np.all(pc.global_average_pool(x) == edge)
        zero_point = np.iinfo(dtype).min + np.iinfo(dtype).max - edge
        got = pc.global_average_pool(x, x_qparams=(2.0, zero_point))
        assert np.all(got == f32(edge - zero_point) * 40000 * (f32(2) / f32(40000)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nchw_views_out_threads(rng, dtype):
    x = image(rng, dtype, 2, 40, 50, 130)
    wanted = pc.max_pool2d(x, 3, stride=2, padding=1)
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    same_bits(pc.max_pool2d(nchw, 3, stride=2, padding=1, layout="NCHW"), wanted.transpose(0, 3, 1, 2))
    same_bits(pc.max_pool2d(nchw.transpose(0, 2, 3, 1), 3, stride=2, padding=1), wanted)
    out = np.empty(wanted.shape[::-1], dtype).transpose(3, 2, 1, 0)
    assert pc.max_pool2d(x, 3, stride=2, padding=1, out=out) is out
    same_bits(out, wanted)
    one = pc.global_average_pool(x, num_threads=1)
    for num_threads in (2, 3, 7):
        same_bits(pc.global_average_pool(x, num_threads=num_threads), one)
        same_bits(pc.max_pool2d(x, 3, stride=2, padding=1, num_threads=num_threads), wanted)


def test_empty():
    assert pc.max_pool2d(np.empty((0, 4, 4, 3), f32), 2).shape == (0, 2, 2, 3)
    assert pc.average_pool2d(np.empty((1, 4, 4, 0), np.uint8), 2).shape == (1, 2, 2, 0)


# ---- add


def sums(a, b, a_qparams, b_qparams, y_qparams, bounds=(-np.inf, np.inf)):
    y_scale = f32(y_qparams[0]) if y_qparams else f32(1)
    terms = [
        (x.astype(np.int32) - z).astype(f32) * (f32(s) / y_scale) for x, (s, z) in ((a, a_qparams), (b, b_qparams))
    ]
    if not y_qparams:
        return terms[0] + terms[1]
    info, z = np.iinfo(a.dtype), y_qparams[1]
    lowest, highest = (np.clip(np.rint(np.float64(f32(v) / y_scale)) + z, info.min, info.max) for v in bounds)
    return np.clip(np.rint((terms[0] + terms[1]).astype(np.float64)) + z, lowest, highest).astype(a.dtype)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("count", [0, 1, 7, 16, 17, 64, 100, 256 * 256])
def test_add_of_integers(way, rng, dtype, count):
    a, b = random_bytes(rng, dtype, count), random_bytes(rng, dtype, count)
    if count == 256 * 256:  # every pair
        a, b = (
            x.reshape(-1).view(dtype)
            for x in np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
        )
    qparams = (0.03, 100), (0.011, 7)
    for y_qparams in (None, (0.02, 90), (0.5, 3), (1e-4, 0)):
        got = pc.add(a, b, a_qparams=qparams[0], b_qparams=qparams[1], y_qparams=y_qparams)
        same_bits(got, sums(a, b, *qparams, y_qparams))
    for activation, bounds in (("relu", (0, np.inf)), ("relu6", (0, 6)), ((-0.4, 1.3), (-0.4, 1.3))):
        y = (0.02, 90)
        got = pc.add(a, b, a_qparams=qparams[0], b_qparams=qparams[1], y_qparams=y, activation=activation)
        same_bits(got, sums(a, b, *qparams, y, bounds))


@given(
    st.sampled_from(EIGHT_BITS),
    st.tuples(*[st.floats(2**-20, 2**20, width=32)] * 3),
    st.tuples(*[st.integers(0, 127)] * 3),
    st.integers(0, 2**32),
)
def test_add_of_any_scales(dtype, scales, zero_points, seed):
    rng = np.random.default_rng(seed)
    a, b = random_bytes(rng, dtype, 40), random_bytes(rng, dtype, 40)
    q = list(zip(scales, zero_points, strict=True))
    with np.errstate(over="ignore"):
        wanted = sums(a, b, *q)
    same_bits(pc.add(a, b, a_qparams=q[0], b_qparams=q[1], y_qparams=q[2]), wanted)


def test_add_of_float32(way, rng):
    for count in (0, 1, 15, 16, 33, 1000):
        a, b = rng.standard_normal(count).astype(f32), rng.standard_normal(count).astype(f32)
        same_bits(pc.add(a, b), a + b)
        same_bits(pc.add(a, b, activation="relu6"), np.clip(a + b, f32(0), f32(6)))
    assert np.isnan(pc.add(np.array([np.nan], f32), np.array([1], f32), activation="relu"))[0]


def test_add_shapes_and_out(rng):
    a, b = rng.standard_normal((2, 3, 300)).astype(f32), rng.standard_normal((300, 3, 2)).astype(f32).T
    out = np.empty_like(a)
    assert pc.add(a, b, out=out) is out
    same_bits(out, a + b)
    big = rng.standard_normal((2, 200_000)).astype(f32)
    for num_threads in (1, 2, 3):
        same_bits(pc.add(big[0], big[1], num_threads=num_threads), big[0] + big[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_plainly_right_goes_the_short_way(rng, dtype, monkeypatch):
    """And gives what the long way does, which a list or a strided array takes."""
    x = image(rng, dtype, 2, 7, 9, 37)
    strided = np.repeat(x, 2, axis=3)[..., ::2]
    given = {} if dtype == np.float32 else {"x_qparams": pc.QParams(0.3, 7)}
    wider = {} if dtype == np.float32 else {**given, "y_qparams": (0.5, 3)}
    calls = {
        "pool_fast": [
            lambda x, k: pc.max_pool2d(x, k, stride=2, padding=(1, 0)),
            lambda x, k: pc.average_pool2d(x, k, padding=1, **wider),
            lambda x, k: pc.average_pool2d(x, k, padding=1, count_include_pad=False, **given),
            lambda x, k: pc.global_average_pool(x, **wider),
            lambda x, k: pc.global_average_pool(x),
        ],
        "add_fast": [
            lambda x, k: pc.add(x, np.roll(x, 1), **({"a_qparams": (0.3, 1), "b_qparams": (1.5, 2)} if given else {})),
            lambda x, k: pc.add(
                x,
                x,
                activation="relu6",
                **({"a_qparams": (1.0, 1), "b_qparams": (0.1, 2), "y_qparams": (0.2, 9)} if given else {}),
            ),
        ],
    }
    taken = []
    for name in calls:
        fast = getattr(pc.pooling, f"_{name}")
        monkeypatch.setattr(pc.pooling, f"_{name}", lambda *a, fast=fast: taken.append(fast(*a)) or taken[-1])
    for call in itertools.chain(*calls.values()):
        short, long = call(x, (2, 2)), call(strided, [2, 2])
        same_bits(short, long)
        assert taken[-1] is NotImplemented
        if pc.cpu_info()["backend"] == "native":
            assert taken[-2] is short


# ---- errors

X, Q = np.ones((1, 4, 4, 3), f32), np.ones((1, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, "x is an array of float64", lambda: pc.max_pool2d(X.astype(float), 2)),
        (ValueError, r"x has shape \(4, 3\)", lambda: pc.max_pool2d(X[0, 0], 2)),
        (ValueError, "layout is 'NWHC'", lambda: pc.max_pool2d(X, 2, layout="NWHC")),
        (TypeError, "kernel_size is 2.5", lambda: pc.max_pool2d(X, 2.5)),
        (ValueError, "kernel_size is 0, wanted at least 1", lambda: pc.max_pool2d(X, 0)),
        (ValueError, "stride is 0", lambda: pc.max_pool2d(X, 2, stride=0)),
        (ValueError, "padding is 2, wanted at most half", lambda: pc.max_pool2d(X, 3, padding=2)),
        (ValueError, "x has height 4, wanted at least 5", lambda: pc.max_pool2d(X, 5)),
        (ValueError, "out has shape", lambda: pc.max_pool2d(X, 2, out=np.empty((1, 2, 2, 4), f32))),
        (ValueError, "out shares memory with x", lambda: pc.max_pool2d(X, 1, out=X)),
        (ValueError, "given with float32 x", lambda: pc.average_pool2d(X, 2, x_qparams=(1, 0))),
        (ValueError, "y_qparams is given without", lambda: pc.average_pool2d(Q, 2, y_qparams=(1, 0))),
        (ValueError, "padding counts as zero", lambda: pc.average_pool2d(Q, 3, padding=1)),
        (ValueError, "zero_point is -1", lambda: pc.average_pool2d(Q, 2, x_qparams=(1, -1))),
        (ValueError, "x_scale / y_scale", lambda: pc.average_pool2d(Q, 2, x_qparams=(1e30, 0), y_qparams=(1e-30, 0))),
        (ValueError, "at least one pixel", lambda: pc.global_average_pool(np.ones((1, 0, 3, 2), f32))),
        (ValueError, r"shapes \(1, 4, 4, 3\) and \(4, 4, 3\)", lambda: pc.add(X, X[0])),
        (TypeError, "b is an array of uint8, wanted float32", lambda: pc.add(X, Q)),
        (ValueError, "a_qparams or b_qparams is None", lambda: pc.add(Q, Q, a_qparams=(1, 0))),
        (ValueError, "given with float32 arrays", lambda: pc.add(X, X, y_qparams=(1, 0))),
        (ValueError, "activation is 'gelu'", lambda: pc.add(X, X, activation="gelu")),
        (
            ValueError,
            "the activation acts on it",
            lambda: pc.add(Q, Q, a_qparams=(1, 0), b_qparams=(1, 0), activation="relu"),
        ),
        (ValueError, "not finite", lambda: pc.add(Q, Q, a_qparams=(1e38, 0), b_qparams=(1, 0), y_qparams=(1e-3, 0))),
        (ValueError, "out shares memory with b", lambda: pc.add(X + 1, X, out=X)),
    ],
)
def test_errors(error, match, call):
    with pytest.raises(error, match=match):
        call()
