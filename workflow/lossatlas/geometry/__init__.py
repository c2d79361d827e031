"""Where in parameter space: directions, their normalisation, segments, projected paths, random walks."""
