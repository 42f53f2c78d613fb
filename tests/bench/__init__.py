"""Measurements: ours, a floor or peer of the same run, and the ratio."""
