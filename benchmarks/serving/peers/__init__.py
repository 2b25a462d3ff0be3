"""The servers compared, a folder each: how to start it, what it runs, what it installs."""
