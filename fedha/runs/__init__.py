"""Runs on disk: their folders and files, checkpoints, events, and the rules that select a round."""
