"""Other people's models that need help to be right."""
