"""Photographs of parts, inspected: in Python one by one or as a stream, by the command as a folder of results."""
