"""The bus: a port that the services speak to, NATS behind it, and a fake in memory that behaves alike."""
