"""What every zero-shot method on CLIP shares: features, scoring, tiles, views, memory, pictures and anomalib's wiring."""
