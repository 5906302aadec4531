"""A torture harness for embedded stores: real processes, real SIGKILL, and checkers that must convince."""
