"""The page of a run: what is said about it, and the drawing of it in one file that works offline."""
