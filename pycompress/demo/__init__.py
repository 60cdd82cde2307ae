"""`pycompress demo`: a real sentence encoder, with float32 weights and under each preset.

fetch gets the model, sentences the input, minilm is the encoder, run compares the kinds, plot draws the comparison.
"""


class DemoError(Exception):
    """Why the demo cannot run, and what to do about it, in words for its user."""
