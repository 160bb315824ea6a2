"""A file of requests, drawn to a folder or an object store. Works with any pipeline; knows nothing of the terminal and of Ray."""
