"""Other programs' firewalls (ufw, Docker, firewalld): what of ours they drop, and the one rule that mends it.

An accept in our table does not overrule a drop in another: every base chain of a hook has its own last word.
Rules are read as the kernel runs them, not as a program lists them: nft shows the matches of iptables by name only.
"""
