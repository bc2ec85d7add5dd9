"""Training, evaluation and prediction; receives built objects and never reads YAML."""
