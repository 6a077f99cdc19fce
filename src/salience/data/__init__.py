"""Images: where they come from, how they are read, and what their labels mean to a model.

Nothing here imports torch, and importing the room costs nothing: take what you need from its modules,
:mod:`~salience.data.source` (open), :mod:`~salience.data.decode` (pixels), :mod:`~salience.data.labels` and
:mod:`~salience.data.geometry`.
"""
