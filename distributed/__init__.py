"""Work on many machines with Ray: replicas behind the HTTP server, and batches. Needs the extra [ray]."""
