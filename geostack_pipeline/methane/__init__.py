"""Methane: retrieval in JAX, plume candidates, and the numbers that follow from them.

Retrievals write one family of variables (``ch4_enhancement``, ``ch4_uncertainty``, ``quality_flags``, …), whatever
the instrument; :mod:`~geostack_pipeline.methane.plumes` reads only those.
"""
