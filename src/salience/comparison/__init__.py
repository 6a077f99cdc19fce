"""Models compared over a dataset: segments of images, concepts, what each model owes to them, and how sure that is.

Partitions, frames, tables and statistics need no torch, so that a finished comparison is read without it.
"""
