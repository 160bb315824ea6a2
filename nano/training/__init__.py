"""The training of nano: tokenizer, autoencoder, vision encoder, language model, transformer. Needs torch."""
