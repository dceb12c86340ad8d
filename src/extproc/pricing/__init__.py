"""What tokens cost: exact decimal arithmetic on rates, and a catalogue of rates by provider, model and day.

Unknown is an answer of its own, with a reason; it is never zero.
"""
