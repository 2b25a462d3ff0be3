"""Make a model smaller or faster by passes, prove what it cost, and register the result."""
