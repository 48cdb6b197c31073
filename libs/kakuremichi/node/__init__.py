"""What gateways and agents share: identity on disk, enrolment, the announcement of the key, the worker, reports."""
