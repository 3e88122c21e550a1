"""Sources: where images are read from.

`open` opens what a user names: an OCI layout, an archive of one, an archive of ``docker save``, or
an image in a registry.  Each source gives a root descriptor, documents and blobs, all
unverified except the documents; `protocol` has the interface.  `resolve` follows indexes to the
manifest for a platform.  A source does not know what a layer contains, or where the image goes.
"""
