"""The small trained OmniGen2 that ships with the project: its world, its scores, its training and its checkpoint."""
