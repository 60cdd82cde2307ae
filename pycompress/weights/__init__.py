"""Compressed weights, one file for each kind."""

from .base import Weight
from .int8 import Int8Weight
from .qparams import QParams

__all__ = ["Int8Weight", "QParams", "Weight"]
