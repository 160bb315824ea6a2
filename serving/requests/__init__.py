"""The contents of requests: their bodies, conversations and pictures, and which are refused. Knows no jobs and no HTTP."""
