"""How a node follows the registry's feeds: verify, judge, hold, and say what changed."""
