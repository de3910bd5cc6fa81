"""Pixels: lossless crop of remote TIFFs, and rasters read by windows and tiles."""
