"""Errands over many machines: the plan and the ledger are ours, who works when and where is dask.distributed's."""
