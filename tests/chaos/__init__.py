"""Faults, one a test, and an oracle that looks at all that is left. `make chaos` runs each of them at length."""
