"""Makes a release: ``python -m release`` in ``deploy/``, or ``make release``."""
