"""The report of a comparison: HTML that opens offline, Markdown, CSV, LaTeX."""
