"""From logits to tokens: processors, warpers, the choice itself, and log-probabilities."""
