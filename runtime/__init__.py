"""The runtime: runs an exported bundle with numpy and an engine, without PyTorch."""
