"""Secure aggregation: the server learns the sum of what the clients send, and nothing of a single one.

The protocol is that of Bonawitz et al. (CCS 2017) against an active adversary; docs/secure-aggregation.md describes it
and its limits. Read in the order of the data: `layout` and `encoding` (tensors as integers), `session`, `terms`,
`question`, `past` and `identity` (what is agreed on, what is asked, what is remembered, and who takes part),
`agreement`, `masks`, `sharing` and `sealing` (the primitives), `messages` and `states` (what travels, what stays),
`client`, `server`, and `rounds`, which runs them all in one process.
"""
