"""The library: what the command does, as functions and values for Python programs.

`stacker.api.store` has the class `Store`, whose methods are the verbs of the command.
`stacker.api.images` and `stacker.api.mounts` have the values that these methods return, and
`stacker.api.registries` has the options for registries and the functions that need no store.
`import stacker` loads none of these modules; `stacker.__getattr__` loads a name on its first use.

Each method calls one function of `stacker.operations`; the verb of the same name calls the method.
This package must not print, use argparse or read the environment, except in functions named
`from_environment`.
"""
