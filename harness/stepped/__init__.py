"""Processes that move only when they are told to, from one sync point to the next."""
