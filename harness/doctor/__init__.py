"""``harness doctor``: an adapter is asked for everything that a campaign will ask of it, and what is wrong is told."""
