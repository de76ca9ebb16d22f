"""Methods that learn prompts or projections on an auxiliary data set: AnomalyCLIP, Crane, AdaCLIP, APRIL-GAN."""
