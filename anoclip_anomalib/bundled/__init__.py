"""The encoder that comes with the package, and the command that made it."""
