"""Benchmarks: ratios between two things measured in one run, as machines are noisy."""
