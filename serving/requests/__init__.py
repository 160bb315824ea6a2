"""What requests ask for: their bodies, conversations and pictures, and which of them are refused. Knows no jobs and no HTTP."""
