"""Nano's world as data and as pictures: scenes of things, landscapes, their random sampler and their rendering."""
