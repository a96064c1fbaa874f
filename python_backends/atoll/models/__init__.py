"""One file per architecture, each exporting WEIGHTS, Config, Block and Model."""
