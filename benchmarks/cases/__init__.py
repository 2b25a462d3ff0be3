"""The models that every server is asked to serve."""
