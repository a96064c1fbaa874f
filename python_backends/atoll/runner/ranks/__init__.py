"""One model over several processes: rank 0 schedules, and all ranks compute the same steps."""
