"""One nftables table of ours per node: desired → diff → batch → kernel. Never a rule of anybody else's."""
