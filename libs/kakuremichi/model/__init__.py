"""Values without I/O: ids, keys, addresses, services. Everything else imports these; these import nothing of ours."""
