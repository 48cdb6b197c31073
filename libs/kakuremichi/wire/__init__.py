"""Everything that crosses NATS, as data: subjects, signed envelopes, records, requests, commands, facts."""
