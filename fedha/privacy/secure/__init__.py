"""Secure aggregation: the server learns the sum of what the clients send, and nothing of a single one.

The protocol is that of Bonawitz et al. (CCS 2017) against an active adversary, with the sparse graph of Bell et al.
(CCS 2020) as an option; docs/secure-aggregation.md describes it and its limits. Read in the order of the data: `layout`
and `encoding` (tensors as integers), `session`, `question` and `identity` (what is agreed on, what is asked, and who
takes part), `agreement`, `masks`, `sharing` and `sealing` (the primitives), `messages` and `states` (what travels, what
stays), `client`, `server`, and `rounds`, which runs them all in one process.
"""
