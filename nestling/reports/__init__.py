"""What a person looks at, from facts alone: pages, plots, drawings, model cards, tables, progress."""
