"""The laboratory: what was tried, how it was measured, what may be believed."""
