"""What stacker does, one module for each operation.

:mod:`pull <stacker.operations.pull>`, :mod:`push <stacker.operations.push>`,
:mod:`copy <stacker.operations.copy>` and :mod:`index <stacker.operations.index>` move images,
:mod:`mount <stacker.operations.mount>` and :mod:`unpack <stacker.operations.unpack>` use them,
:mod:`remove <stacker.operations.remove>` and :mod:`usage <stacker.operations.usage>` look after
the store.  An operation decides the order of the steps and leaves each step to the package that
owns it.  It takes values and an `Emit` callback; it must not print, read options or read the
environment.
"""
