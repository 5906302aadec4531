"""Checkers: one file per property. They do no I/O and import only the history and the verdict."""
