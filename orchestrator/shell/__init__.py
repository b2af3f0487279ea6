"""Faust, the inbox and the sweeper: it waits, it never chooses."""
