"""How a supernet learns: sources, terms, views, stages, and one loop."""
