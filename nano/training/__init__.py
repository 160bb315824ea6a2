"""How nano was trained: tokenizer, autoencoder, language model, transformer. Needs torch; nothing that ships imports it."""
