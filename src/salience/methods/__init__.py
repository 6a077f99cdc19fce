"""One file a family of methods; each method a frozen dataclass behind one registry."""
