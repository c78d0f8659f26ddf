"""fedha: FEDerated Hessian Alignment. One model across domains that may not share their data."""

__version__ = "0.1.0"
