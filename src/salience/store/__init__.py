"""The run directory: arrays and tables, written unit by unit, readable without torch. FORMAT.md is normative."""
