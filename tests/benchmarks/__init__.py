"""Notes and tools for measuring; what `ocrpool bench` runs is `worker/bench/`."""
