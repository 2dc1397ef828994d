"""What everything may use: records between stages, feature schema, errors, seeds, files. Imports nothing of ours."""
