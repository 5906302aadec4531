"""What recorded operations mean: one file per model, and the properties that each can be checked for."""
