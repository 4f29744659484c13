"""The version, in one place: the build reads it, `asyncbatch --version` prints it, plans record it."""

__version__ = "0.1.0"
