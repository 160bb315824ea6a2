"""Short prompts made long by a language model: the bundle's own, or one behind an endpoint. Nothing that the prompt names is lost."""
