"""Pictures from labelled datasets. Nothing here knows a deep-learning framework."""
