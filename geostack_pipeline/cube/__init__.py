"""Cubes: grids of areas, warp, same-day mosaic and Zarr nodes."""
