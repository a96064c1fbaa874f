"""One model over several processes: rank 0 decides, the followers compute the same steps."""
