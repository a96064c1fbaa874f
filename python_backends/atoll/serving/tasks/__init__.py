"""The classes that a ``model.py`` exports, one per task."""
