"""Models in files. `open_tensors` reads those of others, `pycompress.load` and `CompressedModel.save` our own."""

from .sources import Info, Tensors, open_tensors

__all__ = ["Info", "Tensors", "open_tensors"]
