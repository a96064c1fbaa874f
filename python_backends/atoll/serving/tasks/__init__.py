"""One class per task: what a ``model.py`` serves."""
