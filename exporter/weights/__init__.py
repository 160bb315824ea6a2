"""Puts a checkpoint's weights into a bundle: links, external data, merged LoRAs, converted copies."""
