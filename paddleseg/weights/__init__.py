"""Weights files of any project: read as data, renamed, loaded strictly, written."""
