"""The operations of stacker, one module for each.

`pull`, `push`, `copy` and `index` move images.  `mount` and `unpack` expose an image as a
filesystem, and `commit` makes an image from the writes of a mount.  `verify` and `repair` find and
replace damaged layers.  `convert` changes the form of layers, and `forms` chooses one.  `remove`
and `gc` remove objects from the store, `usage` counts its bytes, and `bench` measures a pull.
Several operations share `stack`, which builds the stack of an image, and `durability`, which
flushes layers to disk. `verify_chain` compares a chain with its layers, and `schema1` converts old
images.

An operation decides the order of the steps, and leaves each step to the package that owns it.  It
takes values and an `Emit` callback; it must not print, read options or read the environment.
"""
