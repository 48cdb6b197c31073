"""The interface itself: up, MTU, alias, addresses, routes; the sysctls it needs; the networks this host uses."""
