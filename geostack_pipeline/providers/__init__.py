"""One module per catalog, and what they share: how a catalog is asked and what its items mean.

``contract`` says what a provider is; ``coerce`` turns loosely typed JSON into declared
types without losing anything; ``geometry`` settles footprints; ``sentinel2`` knows what
is common to every Sentinel-2 catalog; the other modules are one catalog each.
"""
