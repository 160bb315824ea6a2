"""Training data that users make with their own model: corrections of reflection, and pairs from the frames of a video."""
