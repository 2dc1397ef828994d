"""Shared base: records between stages, feature schema, errors, seeds, files. Imports nothing of ours."""
