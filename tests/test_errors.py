"""Every error: its type, and a message that names the argument, what it got and what it wanted."""

import math
import re

import numpy as np
import pytest
from reference import f32

import pycompress as pc

f64, u8, i8, i32 = np.float64, np.uint8, np.int8, np.int32
X, W, BIAS = np.ones((2, 3), f32), np.ones((4, 3), f32), np.ones(4, f32)
Q, S = X.astype(u8), X.astype(i8)
WEIGHT = pc.Int8Weight(np.ones((4, 3), i8), np.ones(4, f32))
CONVOLUTION = pc.Int8Weight(np.ones((4, 3, 1, 1), i8), np.ones(4, f32))
HUGE = pc.Int8Weight(np.ones((4, 3), i8), np.full(4, 1e30, f32))
BOTH = {"x_qparams": (0.1, 0), "y_qparams": (0.1, 0)}

READ_ONLY = np.zeros((2, 4), f32)
READ_ONLY.flags.writeable = False
MEMORY = np.ones(64, f32)
M_X, M_W, M_BIAS, M_OUT = MEMORY[:6].reshape(2, 3), MEMORY[:12].reshape(4, 3), MEMORY[:4], MEMORY[3:11].reshape(2, 4)


def changed(array, value):
    array = array.copy()
    array.flat[-1] = value
    return array


def linear(*args, **kwargs):
    return lambda: pc.linear(*args, **kwargs)


LINEAR = {
    # x
    "x float64": (linear(X.astype(f64), W), TypeError, "x is an array of float64, wanted float32"),
    "x float64, int8 weight": (
        linear(X.astype(f64), WEIGHT),
        TypeError,
        "x is an array of float64, wanted float32 or uint8 or int8",
    ),
    "x float16": (linear(X.astype(np.float16), W), TypeError, "x is an array of float16, wanted float32"),
    "x int32": (linear(X.astype(i32), WEIGHT), TypeError, "x is an array of int32, wanted"),
    "x big-endian": (linear(X.astype(">f4"), W), TypeError, "x is an array of >f4, wanted float32"),
    "x big-endian, int8 weight": (linear(X.astype(">f4"), WEIGHT), TypeError, "x is an array of >f4, wanted"),
    "x of objects": (linear(X.astype(object), WEIGHT), TypeError, "x is an array of object, wanted"),
    "x a list": (linear([[1.0, 2.0, 3.0]], W), TypeError, "x is an array of float64, wanted float32"),
    "x None": (linear(None, WEIGHT), TypeError, "x is an array of object, wanted"),
    "x uint8, float32 weight": (linear(Q, W), TypeError, "x is an array of uint8, wanted float32"),
    "x 0-d": (linear(f32(1), W), ValueError, r"x has shape \(\), wanted \[..., 3\] for a weight of shape \(4, 3\)"),
    "x 0-d, int8 weight": (linear(f32(1), WEIGHT), ValueError, r"x has shape \(\), wanted \[..., 3\]"),
    "x of another K": (linear(X[:, :2], W), ValueError, r"x has shape \(2, 2\), wanted \[..., 3\]"),
    "x of another K, int8 weight": (linear(X[:, :2], WEIGHT), ValueError, r"x has shape \(2, 2\), wanted \[..., 3\]"),
    "x 1-d of another K": (linear(X[0, :1], W), ValueError, r"x has shape \(1,\), wanted \[..., 3\]"),
    "x NaN": (linear(changed(X, math.nan), WEIGHT), ValueError, "x h.*NaN"),
    "x inf": (linear(changed(X, math.inf), WEIGHT), ValueError, "x h.* infinity"),
    "x -inf": (linear(changed(X, -math.inf), WEIGHT), ValueError, "x h.* infinity"),
    "x NaN, given qparams": (linear(changed(X, math.nan), WEIGHT, x_qparams=(1, 0)), ValueError, "x h.*NaN"),
    "x too wide": (linear(np.array([[-3e38, 3e38, 0]], f32), WEIGHT), ValueError, "x .*range"),
    # weight
    "weight float64": (linear(X, W.astype(f64)), TypeError, "weight is an array of float64, wanted float32"),
    "weight big-endian": (linear(X, W.astype(">f4")), TypeError, "weight is an array of >f4, wanted float32"),
    "weight int8 array": (linear(X, W.astype(i8)), TypeError, "weight is an array of int8, wanted float32"),
    "weight a list": (
        linear(X, [[1.0, 2.0, 3.0]]),
        TypeError,
        "weight is list, wanted a float32 array or a compressed",
    ),
    "weight None": (linear(X, None), TypeError, "weight is NoneType, wanted a float32 array or a compressed weight"),
    "weight 1-d": (linear(X, W[0]), ValueError, r"weight has shape \(3,\), wanted \[N, K\]"),
    "weight 3-d": (linear(X, W[None]), ValueError, r"weight has shape \(1, 4, 3\), wanted \[N, K\]"),
    "weight 4-d": (linear(X, CONVOLUTION), ValueError, r"weight has shape \(4, 3, 1, 1\), wanted a matrix \[N, K\]"),
    # bias
    "bias float64": (linear(X, W, BIAS.astype(f64)), TypeError, "bias is an array of float64, wanted float32"),
    "bias int32": (linear(Q, WEIGHT, BIAS.astype(i32), **BOTH), TypeError, "bias is an array of int32, wanted float32"),
    "bias a list": (linear(X, W, [1.0] * 4), TypeError, "bias is an array of float64, wanted float32"),
    "bias of another N": (linear(X, W, BIAS[:3]), ValueError, r"bias has shape \(3,\), wanted \(4,\)"),
    "bias a number": (linear(X, WEIGHT, f32(1)), ValueError, r"bias has shape \(\), wanted \(4,\)"),
    "bias a column": (linear(X, WEIGHT, BIAS[:, None]), ValueError, r"bias has shape \(4, 1\), wanted \(4,\)"),
    "bias NaN": (linear(Q, WEIGHT, changed(BIAS, math.nan), **BOTH), ValueError, "bias.* (nan|NaN).*quantized"),
    "bias inf": (linear(Q, WEIGHT, changed(BIAS, math.inf), **BOTH), ValueError, "bias.* inf.*quantized"),
    "bias -inf": (
        linear(S, WEIGHT, changed(BIAS, -math.inf), activation="silu", **BOTH),
        ValueError,
        "bias.* -?inf.*quantized",
    ),
    # activation
    "activation unknown": (
        linear(X, W, activation="tanh"),
        ValueError,
        r"activation is 'tanh', wanted None, 'relu', .*'gelu', or a pair \(low, high\)",
    ),
    "activation in capitals": (
        linear(X, WEIGHT, activation="ReLU"),
        ValueError,
        "activation is 'ReLU', wanted None, 'relu'",
    ),
    "activation a number": (linear(X, W, activation=5), TypeError, "activation is 5, wanted None, a name, or a pair"),
    "activation of one": (
        linear(X, W, activation=(1,)),
        TypeError,
        r"activation is \(1,\), wanted None, a name, or a pair",
    ),
    "activation of three": (linear(X, W, activation=(1, 2, 3)), TypeError, r"activation is \(1, 2, 3\), wanted"),
    "activation of strings": (linear(X, W, activation=("0", "6")), TypeError, r"activation is \('0', '6'\), wanted"),
    "activation of None": (linear(X, W, activation=(None, 6)), TypeError, r"activation is \(None, 6\), wanted"),
    "activation reversed": (
        linear(X, W, activation=(2, 1)),
        ValueError,
        r"activation is \(2, 1\), wanted a pair with low <= high",
    ),
    "activation NaN": (
        linear(X, W, activation=(math.nan, 1)),
        ValueError,
        r"activation is \(nan, 1\), wanted a pair with low <= high",
    ),
    # x_qparams, y_qparams
    "x_qparams missing": (
        linear(Q, WEIGHT),
        ValueError,
        "x_qparams is None, wanted scale and zero point of x, .* uint8",
    ),
    "x_qparams, float32 weight": (
        linear(X, W, x_qparams=(1, 0)),
        ValueError,
        "x_qparams or y_qparams is given, wanted None",
    ),
    "y_qparams, float32 weight": (
        linear(X, W, y_qparams=(1, 0)),
        ValueError,
        "x_qparams or y_qparams is given, wanted None",
    ),
    "y_qparams, float32 x": (
        linear(X, WEIGHT, y_qparams=(1, 0)),
        ValueError,
        "y_qparams is given with float32 x, wanted None",
    ),
    "x_qparams a number": (
        linear(Q, WEIGHT, x_qparams=0.1),
        TypeError,
        r"x_qparams is 0.1, wanted a QParams or a pair \(scale, zero_point\)",
    ),
    "y_qparams of three": (
        linear(Q, WEIGHT, x_qparams=(1, 0), y_qparams=(1, 2, 3)),
        TypeError,
        r"y_qparams is \(1, 2, 3\), wanted",
    ),
    "x_qparams scale a string": (
        linear(Q, WEIGHT, x_qparams=("1", 0)),
        TypeError,
        "x_qparams: scale is '1', wanted a number",
    ),
    "x_qparams scale 0": (
        linear(Q, WEIGHT, x_qparams=(0, 0)),
        ValueError,
        "x_qparams: scale is 0, wanted positive and finite",
    ),
    "y_qparams scale inf": (
        linear(Q, WEIGHT, x_qparams=(1, 0), y_qparams=(math.inf, 0)),
        ValueError,
        "y_qparams: scale is inf, wanted",
    ),
    "x_qparams zero point 0.0": (
        linear(Q, WEIGHT, x_qparams=(1, 0.0)),
        TypeError,
        "x_qparams: zero_point is 0.0, wanted an int",
    ),
    "x_qparams zero point, uint8": (
        linear(Q, WEIGHT, x_qparams=(1, -1)),
        ValueError,
        "x_qparams: zero_point is -1, wanted 0 to 255 for uint8",
    ),
    "x_qparams zero point, int8": (
        linear(S, WEIGHT, x_qparams=(1, 128)),
        ValueError,
        "x_qparams: zero_point is 128, wanted -128 to 127 for int8",
    ),
    "x_qparams zero point, float32": (
        linear(X, WEIGHT, x_qparams=(1, -1)),
        ValueError,
        "x_qparams: zero_point is -1, wanted 0 to 255 for uint8",
    ),
    "y_qparams zero point": (
        linear(S, WEIGHT, x_qparams=(1, 0), y_qparams=(1, 200)),
        ValueError,
        "y_qparams: zero_point is 200, wanted -128 to 127",
    ),
    "y_qparams zero point, by out": (
        linear(S, WEIGHT, x_qparams=(1, 0), y_qparams=(1, -5), out=np.empty((2, 4), u8)),
        ValueError,
        "y_qparams: zero_point is -5, wanted 0 to 255 for uint8",
    ),
    "x_qparams scale without an inverse": (
        linear(X, WEIGHT, x_qparams=(2.0**-128, 0)),
        ValueError,
        "x_qparams: scale is 2.9.*e-39, wanted more than",
    ),
    "scales out of proportion": (
        linear(Q, HUGE, x_qparams=(1e30, 0), y_qparams=(1, 0)),
        ValueError,
        "x_scale .* w_scale.* / y_scale .*not finite",
    ),
    "y scale out of proportion": (
        linear(Q, WEIGHT, x_qparams=(1, 0), y_qparams=(1e-45, 0)),
        ValueError,
        "/ y_scale .*not finite",
    ),
    "scales out of proportion, silu": (
        linear(Q, HUGE, activation="silu", x_qparams=(1e30, 0), y_qparams=(1, 0)),
        ValueError,
        "not finite",
    ),
    "NaN from an activation": (
        linear(
            Q, pc.Int8Weight(-WEIGHT.q, np.full(4, 1e38, f32)), activation="silu", x_qparams=(2, 0), y_qparams=(1, 0)
        ),
        ValueError,
        "activation gave NaN",
    ),
    # out
    "out a list": (linear(X, W, out=[0.0]), TypeError, "out is list, wanted a NumPy array"),
    "out float64": (linear(X, W, out=np.empty((2, 4))), TypeError, "out is an array of float64, wanted float32"),
    "out uint8": (linear(X, WEIGHT, out=np.empty((2, 4), u8)), TypeError, "out is an array of uint8, wanted float32"),
    "out float32 for uint8": (
        linear(Q, WEIGHT, out=np.empty((2, 4), f32), **BOTH),
        TypeError,
        "out is an array of float32, wanted uint8 or int8",
    ),
    "out big-endian": (linear(X, W, out=np.empty((2, 4), ">f4")), TypeError, "out is an array of >f4, wanted float32"),
    "out of another shape": (
        linear(X, W, out=np.empty((4, 2), f32)),
        ValueError,
        r"out has shape \(4, 2\), wanted \(2, 4\)",
    ),
    "out of more dimensions": (
        linear(X, WEIGHT, out=np.empty((1, 2, 4), f32)),
        ValueError,
        r"out has shape \(1, 2, 4\), wanted \(2, 4\)",
    ),
    "out too long": (
        linear(X, WEIGHT, out=np.empty((3, 4), f32)),
        ValueError,
        r"out has shape \(3, 4\), wanted \(2, 4\)",
    ),
    "out read-only": (linear(X, W, out=READ_ONLY), ValueError, "out is read-only, wanted an array that can be written"),
    "out read-only, int8 weight": (linear(X, WEIGHT, out=READ_ONLY), ValueError, "out is read-only, wanted an array"),
    "out in x": (linear(M_X, W, out=M_OUT), ValueError, "out shares memory with x, wanted an array of its own"),
    "out in x, int8 weight": (linear(M_X, WEIGHT, out=M_OUT), ValueError, "out shares memory with x, wanted"),
    "out in weight": (linear(X, M_W, out=M_OUT), ValueError, "out shares memory with weight, wanted"),
    "out in bias": (linear(X, W, M_BIAS, out=M_OUT), ValueError, "out shares memory with bias, wanted"),
    "out in bias, int8 weight": (
        linear(X, WEIGHT, M_BIAS, out=M_OUT),
        ValueError,
        "out shares memory with bias, wanted",
    ),
    "out in x, strided": (
        linear(MEMORY[:12].reshape(2, 6)[:, ::2], W, out=M_OUT),
        ValueError,
        "out shares memory with x, wanted",
    ),
    "out in x, reversed": (linear(M_X[::-1], W, out=M_OUT), ValueError, "out shares memory with x, wanted"),
    "out is x": (
        linear(MEMORY[:9].reshape(3, 3), np.eye(3, dtype=f32), out=MEMORY[:9].reshape(3, 3)),
        ValueError,
        "out shares memory with x",
    ),
    "out in quantized x": (
        linear(MEMORY.view(u8)[:6].reshape(2, 3), WEIGHT, out=MEMORY.view(u8)[5:13].reshape(2, 4), **BOTH),
        ValueError,
        "out shares memory with x, wanted",
    ),
    # num_threads
    "num_threads 0": (linear(X, W, num_threads=0), ValueError, "num_threads is 0, wanted 1 to 4096, or None"),
    "num_threads -1": (linear(X, WEIGHT, num_threads=-1), ValueError, "num_threads is -1, wanted 1 to 4096, or None"),
    "num_threads 4097": (linear(X, WEIGHT, num_threads=4097), ValueError, "num_threads is 4097, wanted 1 to 4096"),
    "num_threads 10^30": (linear(X, W, num_threads=10**30), ValueError, "num_threads is 10{30}, wanted 1 to 4096"),
    "num_threads 1.0": (linear(X, W, num_threads=1.0), TypeError, "num_threads is 1.0, wanted an int or None"),
    "num_threads a string": (
        linear(X, WEIGHT, num_threads="2"),
        TypeError,
        "num_threads is '2', wanted an int or None",
    ),
    "set_num_threads 0": (lambda: pc.set_num_threads(0), ValueError, "num_threads is 0, wanted 1 to 4096, or None"),
    "set_num_threads 1.5": (lambda: pc.set_num_threads(1.5), TypeError, "num_threads is 1.5, wanted an int or None"),
    "unknown keyword": (linear(X, W, colour="red"), TypeError, "colour"),
}


def weight(q, scale):
    return lambda: pc.Int8Weight(q, scale)


def from_float(w):
    return lambda: pc.Int8Weight.from_float(w)


def qparams(*args):
    return lambda: pc.QParams(*args)


Q8, ONES = np.ones((4, 3), i8), np.ones(4, f32)
WEIGHTS = {
    "q uint8": (weight(Q8.astype(u8), ONES), TypeError, "q is an array of uint8, wanted int8"),
    "q a list": (weight([[1, 2, 3]], ONES), TypeError, "q is an array of int64, wanted int8"),
    "q None": (weight(None, ONES), TypeError, "q is an array of object, wanted int8"),
    "q 1-d": (weight(Q8[0], ONES), ValueError, r"q has shape \(3,\), wanted \[N, K\] or \[O, I, kh, kw\]"),
    "q 3-d": (weight(Q8[None], ONES), ValueError, r"q has shape \(1, 4, 3\), wanted"),
    "scale float64": (weight(Q8, ONES.astype(f64)), TypeError, "scale is an array of float64, wanted float32"),
    "scale a float": (weight(Q8, 1.0), TypeError, "scale is an array of float64, wanted float32"),
    "scale big-endian": (weight(Q8, ONES.astype(">f4")), TypeError, "scale is an array of >f4, wanted float32"),
    "scale of another N": (
        weight(Q8, ONES[:3]),
        ValueError,
        r"scale has shape \(3,\), wanted one for each output of q, \(4,\)",
    ),
    "scale a column": (weight(Q8, ONES[:, None]), ValueError, r"scale has shape \(4, 1\), wanted one for each output"),
    "scale 0": (weight(Q8, changed(ONES, 0)), ValueError, r"scale\[3\] is 0.0, wanted positive and finite"),
    "scale negative": (weight(Q8, changed(ONES, -1)), ValueError, r"scale\[3\] is -1.0, wanted positive and finite"),
    "scale NaN": (weight(Q8, changed(ONES, math.nan)), ValueError, r"scale\[3\] is nan, wanted positive and finite"),
    "scale inf": (weight(Q8, changed(ONES, math.inf)), ValueError, r"scale\[3\] is inf, wanted positive and finite"),
    "w int8": (from_float(Q8), TypeError, "w is an array of int8, wanted float32"),
    "w complex": (from_float(W.astype(complex)), TypeError, "w is an array of complex128, wanted float32"),
    "w of objects": (from_float(W.astype(object)), TypeError, "w is an array of object, wanted float32"),
    "w None": (from_float(None), TypeError, "w is an array of object, wanted float32"),
    "w 1-d": (from_float(W[0]), ValueError, r"w has shape \(3,\), wanted \[N, K\] or \[O, I, kh, kw\]"),
    "w 0-d": (from_float(f32(1)), ValueError, r"w has shape \(\), wanted"),
    "w NaN": (from_float(changed(W, math.nan)), ValueError, "w holds NaN or infinity"),
    "w inf": (from_float(changed(W, -math.inf)), ValueError, "w holds NaN or infinity"),
    "w beyond float32": (
        from_float(changed(W.astype(f64), 1e39)),
        ValueError,
        r"w holds NaN or infinity \(in float32\)",
    ),
    "QParams scale 0": (qparams(0, 0), ValueError, "scale is 0, wanted positive and finite in float32"),
    "QParams scale -1": (qparams(-1.0), ValueError, "scale is -1.0, wanted positive"),
    "QParams scale NaN": (qparams(math.nan), ValueError, "scale is nan, wanted positive"),
    "QParams scale underflows": (qparams(1e-60), ValueError, "scale is 1e-60, wanted positive and finite in float32"),
    "QParams scale overflows": (qparams(1e60), ValueError, "scale is 1e[+]60, wanted positive and finite in float32"),
    "QParams scale a string": (qparams("0.5"), TypeError, "scale is '0.5', wanted a number"),
    "QParams scale None": (qparams(None), TypeError, "scale is None, wanted a number"),
    "QParams scale a list": (qparams([1.0]), TypeError, r"scale is \[1.0\], wanted a number"),
    "QParams scale complex": (qparams(1j), TypeError, "scale is 1j, wanted a number"),
    "QParams zero point float": (qparams(1, 2.0), TypeError, "zero_point is 2.0, wanted an int"),
    "QParams zero point None": (qparams(1, None), TypeError, "zero_point is None, wanted an int"),
    "QParams zero point 256": (qparams(1, 256), ValueError, "zero_point is 256, wanted -128 to 255"),
    "QParams zero point -129": (qparams(1, -129), ValueError, "zero_point is -129, wanted -128 to 255"),
}


def quantize(*args, **kwargs):
    return lambda: pc.quantize_linear(*args, **kwargs)


def dequantize(*args, **kwargs):
    return lambda: pc.dequantize_linear(*args, **kwargs)


def dynamic(x):
    return lambda: pc.dynamic_quantize_linear(x)


SCALE3, ZERO3 = np.ones(3, f32), np.zeros(3, u8)
QUANTIZE = {
    "x float64": (
        quantize(X.astype(f64), 1.0, None),
        TypeError,
        "x is an array of float64, wanted float32 or float16 or int32",
    ),
    "x uint8": (quantize(Q, 1.0, None), TypeError, "x is an array of uint8, wanted float32"),
    "x big-endian": (quantize(X.astype(">f4"), 1.0, None), TypeError, "x is an array of >f4, wanted float32"),
    "x None": (quantize(None, 1.0, None), TypeError, "x is an array of object, wanted float32"),
    "x NaN": (quantize(changed(X, math.nan), 1.0, None), ValueError, "x h.*NaN"),
    "x NaN by channel": (quantize(changed(X, math.nan), SCALE3, ZERO3), ValueError, "x h.*NaN"),
    "x NaN in float16": (
        quantize(changed(X, math.nan).astype(np.float16), np.float16(1), u8(0)),
        ValueError,
        "x h.*NaN",
    ),
    "scale float64": (
        quantize(X, SCALE3.astype(f64), ZERO3),
        TypeError,
        "scale is an array of float64, wanted float32",
    ),
    "scale a list": (quantize(X, [1.0] * 3, ZERO3), TypeError, "scale is an array of float64, wanted float32"),
    "scale None": (quantize(X, None, ZERO3), TypeError, "scale is an array of object, wanted float32"),
    "scale 0": (quantize(X, 0.0, None), ValueError, "scale holds 0.0, wanted positive and finite"),
    "scale NaN": (
        quantize(X, changed(SCALE3, math.nan), ZERO3),
        ValueError,
        "scale holds nan, wanted positive and finite",
    ),
    "scale overflows": (quantize(X, 1e60, None), ValueError, "scale holds inf, wanted positive and finite"),
    "scale of another length": (
        quantize(X, SCALE3[:2], ZERO3[:2]),
        ValueError,
        r"scale has shape \(2,\), wanted one number, \(3,\) for axis 1 of x",
    ),
    "scale of too many dimensions": (
        quantize(X, np.ones((1, 2, 3), f32), np.zeros((1, 2, 3), u8)),
        ValueError,
        r"scale has shape \(1, 2, 3\), wanted",
    ),
    "scale of more blocks than values": (
        quantize(X, np.ones((2, 4), f32), np.zeros((2, 4), u8)),
        ValueError,
        r"scale has shape \(2, 4\), wanted",
    ),
    "zero_point int64": (
        quantize(X, 1.0, np.int64(0)),
        TypeError,
        "zero_point is an array of int64, wanted uint8, int8 or another",
    ),
    "zero_point float": (
        quantize(X, 1.0, 0.0),
        TypeError,
        "zero_point is an array of float64, wanted uint8, int8 or another",
    ),
    "zero_point 256": (quantize(X, 1.0, 256), ValueError, "zero_point is 256, wanted 0 to 255 for uint8"),
    "zero_point of another shape": (
        quantize(X, SCALE3, ZERO3[:2]),
        ValueError,
        r"zero_point has shape \(2,\), wanted scale's, \(3,\)",
    ),
    "axis 2": (quantize(X, SCALE3, ZERO3, axis=2), ValueError, r"axis is 2, wanted -2 to 1 for x of shape \(2, 3\)"),
    "axis type": (quantize(X, SCALE3, ZERO3, axis=1.0), TypeError, "axis is 1.0, wanted an int"),
    "axis -3": (quantize(X, SCALE3, ZERO3, axis=-3), ValueError, r"axis is -3, wanted -2 to 1 for x of shape \(2, 3\)"),
    "back: x float32": (dequantize(X, 1.0), TypeError, "x is an array of float32, wanted uint8, int8 or another"),
    "back: x int64": (
        dequantize(X.astype(np.int64), 1.0),
        TypeError,
        "x is an array of int64, wanted uint8, int8 or another",
    ),
    "back: x None": (dequantize(None, 1.0), TypeError, "x is an array of object, wanted uint8, int8 or another"),
    "back: scale -1": (dequantize(Q, -1.0), ValueError, "scale holds -1.0, wanted positive and finite"),
    "back: scale inf": (dequantize(Q, changed(SCALE3, math.inf)), ValueError, "scale holds inf, wanted positive"),
    "back: zero_point int8": (dequantize(Q, 1.0, i8(0)), TypeError, "zero_point is an array of int8, wanted uint8"),
    "back: zero_point -1": (dequantize(Q, 1.0, -1), ValueError, "zero_point is -1, wanted 0 to 255 for uint8"),
    "back: zero_point of another shape": (
        dequantize(Q, SCALE3, ZERO3[:2]),
        ValueError,
        r"zero_point has shape \(2,\), wanted scale's",
    ),
    "back: axis": (dequantize(Q, SCALE3, ZERO3, axis=5), ValueError, "axis is 5, wanted -2 to 1"),
    "dynamic: x float64": (dynamic(X.astype(f64)), TypeError, "x is an array of float64, wanted float32"),
    "dynamic: x a list": (dynamic([1.0]), TypeError, "x is an array of float64, wanted float32"),
    "dynamic: x big-endian": (dynamic(X.astype(">f4")), TypeError, "x is an array of >f4, wanted float32"),
    "dynamic: x NaN": (dynamic(changed(X, math.nan)), ValueError, "x h.*NaN"),
    "dynamic: x inf": (dynamic(changed(X, math.inf)), ValueError, "x h.*infinity"),
    "dynamic: x too wide": (dynamic(np.array([-3e38, 3e38], f32)), ValueError, "range"),
}


def matmul(*args):
    return lambda: pc.matmul_integer(*args)


def qmatmul(a=Q, a_scale=1.0, a_zero_point=0, b=Q.T, b_scale=1.0, b_zero_point=0, y_scale=1.0, y_zero_point=0):
    return lambda: pc.qlinear_matmul(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point)


STACK = np.ones((2, 4, 3), u8)
MATMUL = {
    "a float32": (matmul(X, Q.T), TypeError, "a is an array of float32, wanted uint8 or int8"),
    "b int32": (matmul(Q, Q.T.astype(i32)), TypeError, "b is an array of int32, wanted uint8 or int8"),
    "b a list": (matmul(Q, [[1], [1], [1]]), TypeError, "b is an array of int64, wanted uint8 or int8"),
    "a None": (matmul(None, Q.T), TypeError, "a is an array of object, wanted uint8 or int8"),
    "a 0-d": (matmul(u8(1), Q.T), ValueError, r"a and b have shapes \(\) and \(3, 2\), wanted at least one dimension"),
    "b 0-d": (matmul(Q, u8(1)), ValueError, r"a and b have shapes \(2, 3\) and \(\), wanted at least one dimension"),
    "another K": (matmul(Q, Q), ValueError, r"a and b have shapes \(2, 3\) and \(2, 3\), wanted the same K"),
    "another K, packed": (
        matmul(Q[:, :2], WEIGHT),
        ValueError,
        r"a and b have shapes \(2, 2\) and \(3, 4\), wanted the same K",
    ),
    "b 4-d": (matmul(Q, CONVOLUTION), ValueError, r"b has shape \(4, 3, 1, 1\), wanted a matrix \[N, K\]"),
    "stacks": (
        matmul(STACK, np.ones((3, 3, 5), u8)),
        ValueError,
        r"a and b have shapes .*, whose stacks do not broadcast",
    ),
    "a_zero_point int8": (matmul(Q, Q.T, i8(0)), TypeError, "a_zero_point is an array of int8, wanted uint8"),
    "a_zero_point float": (matmul(Q, Q.T, 0.0), TypeError, "a_zero_point is an array of float64, wanted uint8"),
    "a_zero_point 256": (matmul(Q, Q.T, 256), ValueError, "a_zero_point is 256, wanted 0 to 255 for uint8"),
    "b_zero_point 128": (matmul(Q, S.T, 0, 128), ValueError, "b_zero_point is 128, wanted -128 to 127 for int8"),
    "b_zero_point uint8": (
        matmul(Q, WEIGHT, 0, np.ones(4, u8)),
        TypeError,
        "b_zero_point is an array of uint8, wanted int8",
    ),
    "a_zero_point of another M": (
        matmul(Q, Q.T, np.zeros(3, u8)),
        ValueError,
        r"a_zero_point has shape \(3,\), wanted one number, \(2,\) or \(2, 1\)",
    ),
    "a_zero_point of a stack": (
        matmul(STACK, Q.T, np.zeros(4, u8)),
        ValueError,
        r"a_zero_point has shape \(4,\), wanted one number, .*\(2, 4, 1\)",
    ),
    "b_zero_point of another N": (
        matmul(Q, Q.T, 0, np.zeros(3, u8)),
        ValueError,
        r"b_zero_point has shape \(3,\), wanted one number, \(2,\) or \(1, 2\)",
    ),
    "q: a_scale 0": (qmatmul(a_scale=0.0), ValueError, "a_scale holds 0.0, wanted positive and finite"),
    "q: b_scale NaN": (qmatmul(b_scale=math.nan), ValueError, "b_scale holds nan, wanted positive and finite"),
    "q: y_scale inf": (qmatmul(y_scale=math.inf), ValueError, "y_scale holds inf, wanted positive and finite"),
    "q: a_scale None": (qmatmul(a_scale=None), TypeError, "a_scale is an array of object, wanted float32"),
    "q: b_scale float64": (qmatmul(b_scale=np.ones(2)), TypeError, "b_scale is an array of float64, wanted float32"),
    "q: b_scale of another N": (
        qmatmul(b_scale=SCALE3),
        ValueError,
        r"b_scale has shape \(3,\), wanted one number, \(2,\) or \(1, 2\)",
    ),
    "q: a_scale of another M": (
        qmatmul(a_scale=SCALE3),
        ValueError,
        r"a_scale has shape \(3,\), wanted one number, \(2,\) or \(2, 1\)",
    ),
    "q: y_scale of another M": (
        qmatmul(y_scale=SCALE3),
        ValueError,
        r"y_scale has shape \(3,\), wanted one number, \(2,\)",
    ),
    "q: y_zero_point int32": (
        qmatmul(y_zero_point=i32(0)),
        TypeError,
        "y_zero_point is an array of int32, wanted uint8 or int8",
    ),
    "q: y_zero_point None": (
        qmatmul(y_zero_point=None),
        TypeError,
        "y_zero_point is an array of object, wanted uint8 or int8",
    ),
    "q: y_zero_point 256": (qmatmul(y_zero_point=256), ValueError, "y_zero_point is 256, wanted 0 to 255 for uint8"),
    "q: y_zero_point of another shape": (
        qmatmul(y_zero_point=np.zeros(2, u8)),
        ValueError,
        r"y_zero_point has shape \(2,\), wanted y_scale's, \(\)",
    ),
    "q: b_scale of a packed weight": (
        qmatmul(b=WEIGHT, b_scale=2.0),
        ValueError,
        "b_scale differs from the scale of b",
    ),
    "q: b_zero_point of a packed weight": (
        qmatmul(b=WEIGHT, b_scale=None, b_zero_point=1),
        ValueError,
        "b_zero_point is not 0, wanted None",
    ),
    "q: scales out of proportion": (
        qmatmul(a_scale=1e30, b_scale=1e30),
        ValueError,
        "_scale .* / y_scale .*not finite",
    ),
    "q: scales out of proportion, by row": (
        qmatmul(a_scale=np.full(2, 1e30, f32), b_scale=1e30),
        ValueError,
        "a_scale [*] b_scale / y_scale is not finite",
    ),
}

# Operands that take no memory: a call that did anything with them would not come back.
LONG = 1 << 40


def long(dtype, *shape):
    return np.broadcast_to(dtype(1), shape)


def long_weight(k):
    return pc.Int8Weight(long(i8, 4, k), np.ones(4, f32))


OVERFLOW = {
    **{
        f"linear, x {dtype.__name__}, K {k}": (
            linear(long(dtype, 2, k), long_weight(k), x_qparams=None if dtype is f32 else (1, 0)),
            "65793",
        )
        for dtype in (f32, u8, i8)
        for k in (65794, LONG)
    },
    "linear, requantized": (linear(long(u8, 2, LONG), long_weight(LONG), **BOTH), "65793"),
    "linear, given qparams": (linear(long(f32, 2, LONG), long_weight(LONG), x_qparams=(1, 0)), "65793"),
    **{
        f"matmul_integer, {a.__name__} by {b.__name__}, K {k}": (matmul(long(a, 2, k), long(b, k, 4)), most)
        for a in (u8, i8)
        for b, most in ((u8, "33025"), (i8, "65793"))
        for k in (int(most) + 1, LONG)
    },
    "matmul_integer, zero point of b": (matmul(long(u8, 2, 33026), long(i8, 33026, 4), None, i8(1)), "33025"),
    "matmul_integer, zero points of columns": (
        matmul(long(u8, 2, LONG), long(i8, LONG, 4), None, np.ones(4, i8)),
        "33025",
    ),
    "matmul_integer, stack": (matmul(long(u8, 2, 2, LONG), long(i8, 2, LONG, 4)), "65793"),
    "matmul_integer, packed": (matmul(long(u8, 2, LONG), long_weight(LONG)), "65793"),
    "qlinear_matmul": (qmatmul(long(u8, 2, LONG), b=long(i8, LONG, 4)), "65793"),
    "qlinear_matmul, uint8": (qmatmul(long(u8, 2, 33026), b=long(u8, 33026, 4)), "33025"),
    "qlinear_matmul, packed": (qmatmul(long(u8, 2, LONG), b=long_weight(LONG), b_scale=None), "65793"),
}


# Arrays, containers and numbers that float64 does not reach, where a name, a count or a scale is wanted.
OPTIONS = {
    "bits an array": (lambda: pc.quantize(W, np.array([8, 4])), ValueError, r"bits is array\(\[8, 4\]\), wanted 8, 4"),
    "per an array": (lambda: pc.quantize(W, per=np.array([])), ValueError, "per is array"),
    "clip an array": (lambda: pc.quantize(W, clip=np.array([1, 2])), ValueError, "clip is array"),
    "group_size an array": (lambda: pc.quantize(W, 4, group_size=np.array([])), ValueError, "group_size is array"),
    "method an array": (lambda: pc.prune(W, 0.5, method=np.array([1, 2])), ValueError, "method is array"),
    "axis an array": (lambda: pc.prune(W, 0.5, "channel", axis=np.array([0, 1])), ValueError, "axis is array"),
    "pattern an array": (lambda: pc.prune(W, 0.5, np.array([1, 2])), ValueError, "pattern is array"),
    "kind an array": (lambda: pc.factorize_conv(W[..., None, None], np.array([])), ValueError, "kind is array"),
    "bits of sparse an array": (lambda: pc.CSRWeight.from_dense(W, bits=np.array([8, 8])), ValueError, "bits is array"),
    "rank a pair": (lambda: pc.LowRankWeight.from_dense(W, rank=(1, 2)), TypeError, r"rank is \(1, 2\), wanted an int"),
    "rank a fraction": (lambda: pc.LowRankWeight.from_dense(W, rank=1.5), TypeError, "rank is 1.5, wanted an int"),
    "energy a name": (lambda: pc.LowRankWeight.from_dense(W, energy="x"), TypeError, "energy is 'x', wanted a number"),
    "k a type": (lambda: pc.Int4Weight(Q, np.ones((2, 1), f32), k=int), TypeError, "k is <class 'int'>, wanted an int"),
    "k negative": (
        lambda: pc.Int4Weight(Q[:, :0], np.ones((2, 0), f32), k=-1),
        ValueError,
        "k is -1, wanted 0 or more",
    ),
    "batches a number": (lambda: pc.calibrate(1), TypeError, "batches is 1, wanted an array or some"),
    "symmetric an array": (lambda: pc.calibrate(X, symmetric=np.ones(2)), TypeError, "symmetric is array"),
    "statistics too large": (
        lambda: pc.InputStatistics(2**40),
        ValueError,
        r"k is 1099511627776, wanted 0 to 16777216",
    ),
    "scale beyond float64": (lambda: pc.QParams(10**400), ValueError, "scale is 10+, wanted positive and finite"),
    "y_scale beyond float64": (qmatmul(y_scale=10**400), ValueError, "y_scale holds inf, wanted positive and finite"),
    "scale masked": (lambda: pc.QParams(np.ma.masked), TypeError, "scale is masked, wanted a number"),
}


def table(cases):
    return pytest.mark.parametrize(("call", "error", "message"), cases.values(), ids=cases)


@table(LINEAR | WEIGHTS | QUANTIZE | MATMUL | OPTIONS)
def test_error(call, error, message):
    memory = MEMORY.copy()
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    assert re.search(message, str(raised.value)), raised.value
    assert (memory == MEMORY).all()


@pytest.mark.parametrize(("call", "longest"), OVERFLOW.values(), ids=OVERFLOW)
def test_too_long_a_k_is_an_error_before_any_work(call, longest):
    with pytest.raises(OverflowError, match=rf"k is \d+: sums .*int32; wanted at most {longest}$"):
        call()


def test_float32_weight_knows_no_longest_k():
    k = 70000
    assert (pc.linear(np.ones((1, k), f32), np.ones((2, k), f32)) == k).all()


def test_longest_k_is_no_error():
    x, weight = np.full((1, 65793), 255, u8), pc.Int8Weight(np.full((2, 65793), -128, i8), np.ones(2, f32))
    assert (pc.linear(x, weight, x_qparams=(1, 0)) == f32(-255 * 128 * 65793)).all()


def test_error_of_one_call_is_not_of_the_next():
    for weight in (W, WEIGHT):
        wanted = pc.linear(X, weight)
        with pytest.raises(ValueError, match="num_threads"):
            pc.linear(X, weight, num_threads=-1)
        assert (pc.linear(X, weight) == wanted).all()


def test_infinite_bias_is_no_error_in_float32():
    y = pc.linear(X, WEIGHT, np.array([math.inf, -math.inf, math.nan, 0], f32))
    np.testing.assert_array_equal(y, np.tile(np.array([math.inf, -math.inf, math.nan, y[0, 3]], f32), (2, 1)))
