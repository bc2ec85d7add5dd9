"""Registries, configuration and the builder; import the submodule you need."""
