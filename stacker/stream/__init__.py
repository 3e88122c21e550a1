"""Bytes to bytes: verify, decompress, and carry between threads.  No stage knows its neighbours."""
