"""Which models and versions are served: loading, the catalog, rotation."""
