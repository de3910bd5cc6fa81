"""Which scenes are there? Supervised search, normalisation, scene tables, selection and diff."""
