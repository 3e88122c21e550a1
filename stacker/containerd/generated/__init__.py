"""Messages and services of containerd's API, generated from its .proto files by scripts/protos.

The .proto files are copyright of the containerd authors, under the Apache License 2.0: LICENSE in
this directory.
"""
