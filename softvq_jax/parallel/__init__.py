"""Meshes, shardings and start-up of several processes: the only package that handles more than one device."""
