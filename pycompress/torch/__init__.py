"""PyTorch modules that run the kernels of pycompress. Needs the extra `torch`."""
