"""Pictures: files and arrays to pixels and back, PNG files with their parameters, captions."""
