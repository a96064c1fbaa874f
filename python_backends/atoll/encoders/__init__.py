"""From token ids to vectors and scores: packs without padding, pooling, heads."""
