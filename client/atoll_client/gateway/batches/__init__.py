"""OpenAI's files and batches: requests from a file, answered when there is nothing else to do."""
