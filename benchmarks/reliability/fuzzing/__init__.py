"""Requests that make no sense: made by hypothesis, sent with a deadline, and judged."""
