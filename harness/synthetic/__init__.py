"""Histories of an in-memory, strictly serializable database with concurrent clients, and anomalies planted in them."""
