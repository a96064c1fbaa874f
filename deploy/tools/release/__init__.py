"""Makes a release: ``python -m release`` in ``deploy/tools/``, or ``make release``."""
