"""kakuremichi: reach services behind NAT through a fleet of gateways, trusting no server in the middle with a key."""

__version__ = "0.1.0"
