"""Files on disk: atomic writes, and manifests that say which job a folder belongs to."""
