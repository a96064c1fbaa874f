"""Requests as they are read, and answers as they are written; no engine, no Triton."""
