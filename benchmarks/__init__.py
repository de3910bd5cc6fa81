"""Measurements of the pipeline beside its peers: ratios of one run, with the machine and the versions."""
