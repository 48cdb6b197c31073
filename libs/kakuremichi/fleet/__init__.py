"""A whole deployment as units of a keeper: the control plane of one server, and in the lab every node too."""
