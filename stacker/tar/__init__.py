"""Parse tar streams into typed entries.

:class:`~stacker.tar.reader.TarReader` reads ustar, PAX, GNU, star and v7 archives from chunks of
bytes and yields one value for each entry; a whiteout has its own type.  The same parser reads
layers, skeletons and docker archives, so all readers of a stream agree about its entries.  It
writes payloads to a descriptor on request, and copies all other bytes to a skeleton.  This
package must not create files, and does not use :mod:`tarfile`: that parser stops silently at a bad
header, and a 2 KiB file can make it loop.
"""
