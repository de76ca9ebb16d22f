"""Mutual scoring: images of a pool score each other."""
