"""Measurements, not tests: `make bench` prints them and writes `bench-results/bench.json`."""
