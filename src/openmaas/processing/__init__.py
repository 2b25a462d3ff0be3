"""What happens to a request before the engine and to its answer after it, as core/processing.py declares it."""
