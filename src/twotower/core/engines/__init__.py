"""Engines that run tasks: processes of this machine, Dask, Ray. They run and retry; what is kept is on disk."""
