"""Evaluation with a judge behind an OpenAI-compatible endpoint: the client, its cache, benchmarks, scores and reports.

Knows no HTTP server, and of a model only the runtime's `Pipeline`. Torch-free.
"""
