"""What lies on disk: self-describing Zarr stores, trajectories, the layout of parameters."""
