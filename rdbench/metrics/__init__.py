"""Every figure that rdbench prints, as pure functions on NumPy arrays: see `docs/metrics.md`."""
