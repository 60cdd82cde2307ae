"""`pycompress demo`: a real sentence encoder, with float32, int8 and pruned int8 weights.

fetch gets the model, sentences the input, minilm is the encoder, run compares the two, plot draws the comparison.
"""


class DemoError(Exception):
    """Why the demo cannot run, and what to do about it, in words for its user."""
