"""What a run of the model on example batches shows: the inputs of layers, and which module follows which alone.

The model's own code runs, so this works for models that no tracer understands. A value is private to a module when in
every run nothing but that module read it, and nobody held it when the run was over.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PASSING", "ROWS", "Observed", "is_relu", "observe", "padding_of"]

ROWS = 4096  # samples of a layer's inputs that are kept, in all batches together

# Functions that tell nothing of the values, and those that give the same on uint8 as on what it stands for. relu is one
# of them when the zero point is 0.
_LOOKS = {Tensor.shape.__get__, Tensor.ndim.__get__, Tensor.device.__get__, Tensor.size, Tensor.dim}
_RELU = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
_SAME = {torch.flatten, Tensor.flatten} | _RELU
PASSING = (nn.ReLU, nn.MaxPool2d, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten)


@dataclass(eq=False)
class Value:
    """A tensor between operations. readers: modules, functions, and "elsewhere"."""

    tensor: weakref.ref[Tensor]
    maker: nn.Module | None
    ndim: int
    readers: list[Any] = field(default_factory=list)
    passed: list[Value] = field(default_factory=list)  # what readers of _SAME made of it


@dataclass
class Observed:
    """samples: float32 [rows, K] for each layer. values: what each module gave. channels_last: whose results lay so."""

    samples: dict[nn.Module, list[NDArray[np.float32]]] = field(default_factory=lambda: defaultdict(list))
    values: dict[nn.Module, list[Value]] = field(default_factory=lambda: defaultdict(list))
    sources: dict[nn.Module, set[nn.Module | None]] = field(default_factory=lambda: defaultdict(set))
    channels_last: set[nn.Module] = field(default_factory=set)

    def follower(self, module: nn.Module) -> nn.Module | None:
        """The module that alone reads what this one gives, and that reads nothing else."""
        values = self.values.get(module, [])
        readers = {reader for value in values for reader in value.readers}
        if len(readers) != 1 or any(len(value.readers) != 1 for value in values):
            return None
        (reader,) = readers
        return reader if isinstance(reader, nn.Module) and self.sources[reader] == {module} else None

    def readers(self, module: nn.Module) -> tuple[set[Any], set[Any]]:
        """All that reads what this module gives, and what lets it pass on the way there, if it is uint8."""
        found: set[Any] = set()
        through: set[Any] = set()
        todo = list(self.values.get(module, []))
        while todo:
            value = todo.pop()
            passing = [reader for reader in value.readers if _passes_uint8(reader)]
            through.update(passing)
            found.update(reader for reader in value.readers if not _passes_uint8(reader))
            found.update(["elsewhere"] if len(passing) != len(value.passed) or not value.readers else [])
            todo += value.passed
        return found, through


def is_relu(reader: Any) -> bool:
    """relu of uint8 is right where the zero point is 0."""
    return type(reader) is nn.ReLU or reader in _RELU


def _passes_uint8(reader: Any) -> bool:
    """Whether a module or a function makes of uint8 what it makes of the values that it stands for."""
    if type(reader) is nn.MaxPool2d:
        return not (reader.ceil_mode or reader.return_indices)
    if isinstance(reader, nn.Module):
        return type(reader) in PASSING and not reader.training
    return not isinstance(reader, str) and reader in _SAME


class _Functions(TorchFunctionMode):
    """Sees every call of a function of torch outside the modules that are watched."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.watch.inside or func in _LOOKS:
            return func(*args, **kwargs)
        read = self.watch.read((args, kwargs), func)
        self.watch.inside += 1
        try:
            result = func(*args, **kwargs)
            if func in _SAME and isinstance(result, Tensor):
                self.watch.passed(read, result)
        finally:
            self.watch.inside -= 1
        return result


class _Operators(TorchDispatchMode):
    """Sees what comes to the dispatcher on other ways, from TorchScript and from operators that are called directly."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.watch.inside:
            self.watch.read((args, kwargs), func)
        return func(*args, **(kwargs or {}))


class _Watch:
    """Hooks on the modules, and what they saw."""

    def __init__(self, layers: Mapping[nn.Module, Any], watched: Iterable[nn.Module], rows: int) -> None:
        self.layers, self.rows, self.inside, self.seen = layers, rows, 0, Observed()
        self._values: dict[int, Value] = {}
        self._reading: list[Value] = []
        self._hooks: list[Any] = []
        for module in watched:
            self._hooks.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._after))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def read(self, where: Any, reader: Any) -> list[Value]:
        """Note who reads the tensors in arguments."""
        found = []
        for tensor in pytree.tree_leaves(where):
            value = self._values.get(id(tensor)) if isinstance(tensor, Tensor) else None
            if value is not None and value.tensor() is tensor:
                value.readers.append(reader)
                found.append(value)
        return found

    def passed(self, read: list[Value], result: Tensor) -> None:
        for value in read[:1]:
            made = self._values[id(result)] = Value(weakref.ref(result), None, result.ndim)
            value.passed.append(made)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.inside += 1
        if self.inside > 1:
            return
        self._reading = self.read((args, kwargs), module)
        x = next((t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)), None)
        known = self._values.get(id(x))
        self.seen.sources[module].add(known.maker if known is not None and known.tensor() is x else None)
        if module in self.layers and x is not None:
            self.seen.samples[module].append(samples(module, x, self.rows))

    def _after(self, module: nn.Module, args: Any, result: Any) -> None:
        if self.inside == 1 and isinstance(result, Tensor):
            value = self._values[id(result)] = Value(weakref.ref(result), module, result.ndim)
            self.seen.values[module].append(value)
            if type(module) in PASSING:
                for read in self._reading[:1]:
                    read.passed.append(value)
            if result.ndim == 4 and not result.is_contiguous():
                self.seen.channels_last.add(module)
        self.inside -= 1

    def finish(self) -> None:
        """A run is over: whatever is still alive is held by somebody."""
        for value in self._values.values():
            if value.tensor() is not None:
                value.readers.append("elsewhere")
        self._values.clear()


def samples(module: Any, x: Tensor, rows: int) -> NDArray[np.float32]:
    """Evenly chosen inputs of a layer, as `pycompress.compress` wants them: rows, or the patches of a convolution.

    Those with the least and the largest value are among them, so that ranges are those of all inputs.
    """
    a = x.detach().float().cpu().numpy()
    if isinstance(module, nn.Linear):
        flat = a.reshape(-1, a.shape[-1])
        return flat[_chosen(flat, flat, rows)]
    if a.ndim == 3:
        a = a[None]
    (top, left, bottom, right), groups = padding_of(module), module.groups
    a = np.pad(a, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (sh, sw), (dh, dw) = module.stride, module.dilation
    tall, wide = ((k - 1) * d + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(a, (tall, wide), (2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]
    largest, least = (f(axis=(1, 4, 5)).reshape(-1) for f in (windows.max, windows.min))
    b, i, j = np.unravel_index(_chosen(largest, least, -(-rows // groups)), np.delete(windows.shape[:4], 1))
    patches = windows[b, :, i, j]  # [rows, C, kh, kw]
    return np.ascontiguousarray(patches).reshape(len(patches) * groups, -1)


def _chosen(largest: Any, least: Any, rows: int) -> Any:
    if not len(largest):
        return np.zeros(0, int)
    even = np.linspace(0, len(largest) - 1, min(rows, len(largest))).astype(int)
    width = largest.size // len(largest)
    return np.union1d(even, [int(largest.argmax()) // width, int(least.argmin()) // width])


def padding_of(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """(top, left, bottom, right)."""
    if isinstance(conv.padding, str):
        if conv.padding == "valid":
            return 0, 0, 0, 0
        down, across = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        return down // 2, across // 2, down - down // 2, across - across // 2
    top, left = conv.padding
    return top, left, top, left


def observe(
    model: nn.Module, batches: Sequence[Any], layers: Mapping[nn.Module, Any], watched: Iterable[nn.Module]
) -> Observed:
    """Run the model on batches: a tensor, a tuple of arguments, or a mapping of arguments by name."""
    watch = _Watch(layers, watched, max(1, ROWS // max(1, len(batches))))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it takes the weights of layers without calling these
    try:
        with torch.no_grad(), _Operators(watch), _Functions(watch):
            for batch in batches:
                # Whatever the model gives is held until `finish` has looked.
                if isinstance(batch, Mapping):
                    given = model(**batch)
                else:
                    given = model(*batch) if isinstance(batch, tuple | list) else model(batch)
                watch.finish()
                del given
    finally:
        watch.close()
        torch.backends.mha.set_fastpath_enabled(fast)
    return watch.seen
