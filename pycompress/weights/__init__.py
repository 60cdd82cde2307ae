"""Compressed weights, one file for each kind."""

from .base import Weight
from .depthwise import DepthwiseWeight
from .floating import Float16Weight, Float32Weight
from .int4 import Int4Weight
from .int8 import Int8Weight
from .lowrank import LowRankWeight
from .qparams import QParams
from .sparse import BSRWeight, CSRWeight

__all__ = [
    "BSRWeight",
    "CSRWeight",
    "DepthwiseWeight",
    "Float16Weight",
    "Float32Weight",
    "Int4Weight",
    "Int8Weight",
    "LowRankWeight",
    "QParams",
    "Weight",
]
