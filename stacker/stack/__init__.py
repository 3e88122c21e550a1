"""Layers to one tree: their order, what stacking must repair, and the merged tree as a value."""
