"""WireGuard peers, on the kernel's engine or on wireguard-go: desired, diff, checks, reconcile."""
