"""Bytes to a directory: a tar stream becomes a tree with whiteouts.  Knows no image and no store."""
