"""The libraries that ours is measured beside: a file for each, and a line here.

A file makes a `Peer` and gives it a function for each family that the library serves: operands, form -> a call that
computes once (or `Ready`, where the result has to be made an array). The library is imported in that function, since
everybody reads the file. bench/README.md tells more.
"""

NAMES = (
    "numpy",
    "torch_float32",
    "torch_onednn",
    "torch_fbgemm",
    "onnxruntime",
    "openvino",
    "numkong",
    "scipy",
    "sparse_dot_mkl",
    "torch_sparse",
    "xnnpack",
    "pycompress_dense",
)
