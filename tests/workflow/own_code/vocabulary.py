"""A local module that the model imports: a change here must retrain."""

SIZE = 10
LENGTH = 6
