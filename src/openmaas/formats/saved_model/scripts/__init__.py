"""Programs for interpreters of other environments, which have none of this package: a request as JSON on stdin, files out."""
