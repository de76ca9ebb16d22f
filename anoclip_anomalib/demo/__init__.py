"""The bundled demonstration: image generator, small CLIP and how it was trained, data set, gallery."""
