"""Models answered by vLLM instead of the package's own sampling."""
