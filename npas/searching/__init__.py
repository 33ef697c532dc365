"""Learn which layers share: search mode (3.2), and clustering of what was learned."""
