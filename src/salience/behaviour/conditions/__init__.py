"""Conditions: the ways in which images are changed before they are explained, one file a family."""
