"""Audio in: reading, manifests, batching, the synthesised corpus."""
