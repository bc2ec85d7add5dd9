"""A page of results, its plots, and the pictures of VisualDL."""
