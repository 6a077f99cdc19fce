"""The page of an audit: how models behave over a set of images."""
