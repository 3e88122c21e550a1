"""Bytes to a directory: a tar stream becomes a tree that honours whiteouts.  Knows no image and no store."""
