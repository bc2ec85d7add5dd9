"""Small single-purpose modules; import the submodule you need."""
