"""The sandbox's servers: catalogs, buckets, faults and the control endpoint, all on loopback in one process."""
