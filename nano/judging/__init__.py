"""Reads pictures of nano's world and judges them: what they show, and what is wrong with it."""
