"""OpenVINO on a CPU, the rewrites of its models, and the models it compiled before."""
