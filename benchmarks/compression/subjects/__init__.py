"""Models and data, each written into a folder by a script that runs where `openmaas` is installed.

A script leaves `model` (to push), `train.*` and `test.*` (datasets to push), and prints one line of what it made.
"""
