"""HAProxy: TLS and HTTP on the gateway. Python writes its files and speaks to its sockets, and touches no byte."""
