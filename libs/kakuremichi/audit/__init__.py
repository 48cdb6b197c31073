"""The log as evidence: its chain and tree, the state it folds into, exports of it, and how all of that is checked."""
