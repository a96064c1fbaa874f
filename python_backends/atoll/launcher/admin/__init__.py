"""Changes to a running server: models loaded, unloaded and reloaded, over a socket of its own."""
