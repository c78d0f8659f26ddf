"""Deployments: the folder that a federation is started from, with its certificates, keys and compose files."""
