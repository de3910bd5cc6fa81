"""One asset graph of the satellite catalogs: scene lists, cached rasters, Zarr cubes, methane maps."""
