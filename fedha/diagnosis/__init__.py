"""How alike domains are to a learned head: transfer measure and bound, curvature, attributes, kinds of shift.

An instrument on finished runs; what it asks of a domain are two functions (`fedha.diagnosis.party`), so that it does
not matter where the domain's examples are.
"""
