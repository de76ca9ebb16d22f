"""The AnoCLIP method."""
