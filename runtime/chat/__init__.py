"""Conversations: questions answered in words or with a picture, alone or in a batch, and reflection."""
