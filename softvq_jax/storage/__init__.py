"""Files on disk: atomic writes, and manifests that identify the job that a folder belongs to."""
