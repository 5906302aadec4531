"""Damaged files: a store of which anything was flipped, zeroed, cut or swapped gives right values and clean errors."""
