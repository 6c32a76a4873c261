"""Served models and versions: loading, catalog and model manager."""
