"""The only SQL outside the migrations: what decisions look at, and the calls of the functions that write."""
