"""What one worker does with one layer or one blob, and the processes that workers run in.

:func:`~stacker.jobs.unpack_layer.unpack_layer` fetches a blob and unpacks it into the store,
:func:`~stacker.jobs.pack_layer.pack_layer` turns a layer of the store into a blob, and
:func:`~stacker.jobs.send_blob.send_blob` sends a blob to a destination.
:func:`~stacker.jobs.convert_layer.convert_layer` gives a layer its other form.  Each takes a task,
a plain value that can be pickled, and reports events.  :func:`~stacker.jobs.pool.run_tasks` runs
one of them for many tasks, several at once.  This package must not decide which layers an image
needs: :mod:`stacker.operations` does.
"""
