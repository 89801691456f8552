"""Meshes, shardings and start-up of several processes: the only package that knows about more than one device."""
