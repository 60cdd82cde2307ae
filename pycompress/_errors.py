"""Errors of our own; all others are Python's."""

__all__ = ["FormatError"]


class FormatError(ValueError):
    """Bytes that should be a weight, packed or in a file, and are not."""
