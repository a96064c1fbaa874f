"""The model's forward pass over a step's arrays."""
