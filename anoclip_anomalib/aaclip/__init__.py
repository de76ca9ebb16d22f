"""AA-CLIP (arXiv 2503.06661): anomaly-aware text anchors, then patch features adapted to them."""
