"""Side-by-side comparison of detectors: suite -> jobs -> rows -> report. Knows models by name only."""
