"""Iterators of byte chunks: decompress, compress, hash, measure, and move between threads.

A stage takes an iterator of chunks and returns one, so that a caller composes a pipeline by nesting
calls.  The stages do not depend on each other's order, on files, on tar or on the store.  Compiled
code does the work and releases the GIL, so stages in several threads run in parallel.
"""
