"""Limits and budgets: rules, windows, counters, the store's scripts and a ledger that keeps the same books in memory."""
