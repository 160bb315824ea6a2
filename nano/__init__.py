"""The small trained OmniGen2 that ships with the project: its world, tasks, evaluation, training and checkpoint."""
