"""Quantizes a bundle: schemes, calibration, rounding, and a report of the errors."""
