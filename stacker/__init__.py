"""stacker: a container image becomes a root filesystem that a process can run in."""

__version__ = "0.1.0"
