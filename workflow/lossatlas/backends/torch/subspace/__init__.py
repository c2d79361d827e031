"""The loss at many points of a plane or a line, in several ways that prove themselves before use."""
