"""Short prompts made long by a language model, of the bundle or behind an endpoint, without losing what they name."""
