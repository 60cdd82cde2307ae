"""What all kinds of weights share. A kind is one file beside this one: its arrays, and how they are packed."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Weight", "frozen"]


class Weight:
    """A compressed weight: canonical arrays, the same on every CPU, and beside them the packed form for this CPU.

    It can be pickled and copied. What is packed, once, when it is first used, is not part of that. The arrays must not
    change any more.
    """

    __slots__ = ("_convolution", "_packed")

    quantizes: ClassVar[bool]
    """Whether `linear` takes uint8 and int8 x, and quantizes float32 x; else x is float32 and stays so."""

    def __init__(self) -> None:
        self._packed: Any = None
        self._convolution: Any = None  # what conv2d packed: groups, and a handle for each

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K), outputs by inputs; or (O, I, kh, kw) of a convolution, for the kinds that take it."""
        raise NotImplementedError

    def todense(self) -> NDArray[np.float32]:
        """float32, of this shape: what the kernel computes with."""
        raise NotImplementedError

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored, by the names of the constructor's arguments."""
        raise NotImplementedError

    def _pack(self) -> Any:
        """A handle of the backend in use, whose `linear` runs this weight."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return sum(a.nbytes for a in self._arrays().values())

    def packed(self) -> Any:
        """The weight as the kernel in use reads it, made at the first call.

        Raises OverflowError when K is so long that a sum could leave int32, ValueError for a weight that is no matrix.
        """
        if self._packed is None:
            self._packed = self._pack()
        return self._packed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self._arrays().values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'x'.join(map(str, self.shape))}, {self.nbytes} bytes)"


def frozen(a: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: the packed form would not follow a change."""
    view: NDArray[Any] = a.view()
    view.flags.writeable = False
    return view
