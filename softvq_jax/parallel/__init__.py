"""Meshes, shardings and start-up of several processes. The only package that deals with more than one device."""
