"""What leaves the pipeline for people and other tools: pictures now, catalogs of results later."""
