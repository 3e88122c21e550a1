"""The kernel, one small function a call; errno becomes OSError or a StackerError with the path."""
