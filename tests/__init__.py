"""The tests of the store, of the harness, and of the house they live in."""
