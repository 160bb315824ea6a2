"""The multimodal language model: prompts and pictures in, hidden states and logits out."""
