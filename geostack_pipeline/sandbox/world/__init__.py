"""The physical world of the sandbox: ground, sky, plumes, and the scenes a satellite takes of them.

Nothing here knows a catalog: a dialect (``geostack_pipeline.sandbox.dialects``) publishes these scenes.
"""
