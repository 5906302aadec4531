"""Isolation: which transaction must have come before which, and the cycles that no order can have."""
