"""Destinations: where images are written to.

`open` opens what a user names: a repository in a registry, an OCI layout in a directory, or an
archive of one.  A destination takes blobs first, then the documents that refer to them, and the
name last; `protocol` has the interface.  It verifies each blob while writing it, skips blobs that
it already has, and does not know where an image comes from.
"""
