"""Files as bytes: written whole or not at all, read within bounds, hashed. Knows nothing of what they are for."""
