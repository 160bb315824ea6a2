"""A smaller bundle: how weights are rounded, in which components, and what that costs."""
