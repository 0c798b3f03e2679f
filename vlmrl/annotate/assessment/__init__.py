"""How far to trust the labels of a ledger: figures, as text, as a page, as JSON."""
