"""Where images go: registries, layouts, archives."""
