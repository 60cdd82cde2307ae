"""Measuring: `pycompress bench`, and the pytest-benchmark suites in bench/, which share this code.

shapes reads files of shapes, measure takes times in interleaved rounds, gemm knows the forms of a product and sets one
up. A family more is a module beside gemm.
"""
