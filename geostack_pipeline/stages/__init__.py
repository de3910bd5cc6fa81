"""The five steps from a catalog to a methane map, one module each, as plain functions on stored versions.

No Dagster here: the same functions run under the asset graph, the command line and the tests.
"""
