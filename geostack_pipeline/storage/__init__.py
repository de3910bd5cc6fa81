"""Bytes: artifact store, blob cache, transfers, href rules and the one owned event loop, on obstore.

Importing this package installs the drain of :mod:`geostack_pipeline.storage.drain`: zarr and rustac
run obstore's async code in loops that are not ours, and a process that ends right after such work
can abort unless its worker threads have come to rest first.
"""

from __future__ import annotations

from geostack_pipeline.storage import drain

drain.install()
