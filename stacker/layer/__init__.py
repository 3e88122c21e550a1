"""Bytes to a directory: a tar becomes a tree with whiteouts.  Knows no image and no store."""
