"""From token ids to vectors and scores: batches without padding, pooling, heads."""
