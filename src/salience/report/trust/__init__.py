"""The page of an evaluation: which maps can be trusted."""
