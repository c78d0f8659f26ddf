"""The sides of a comparison: ours and the peers, each in a process of its own, driven round by round."""
