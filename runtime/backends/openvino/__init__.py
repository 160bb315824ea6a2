"""OpenVINO on a CPU: the rewrites of its models, and the compiled models on disk."""
