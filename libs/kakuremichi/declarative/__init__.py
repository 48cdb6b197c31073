"""The fleet's services as one file: its form, its strict reader, and what is to be done to reach it."""
