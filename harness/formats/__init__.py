"""Histories that other tools recorded, read line by line into events, and written for them."""
