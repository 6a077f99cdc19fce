"""The page of a comparison: which concepts two models use differently, and how sure that is."""
