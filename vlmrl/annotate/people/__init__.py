"""People as labelers: they answer questions of the same ledger, under the annotator `human:NAME`.

A question to a person is a row of the ledger as any other: its key is the digest of sentence, items and pictures as
shown. It waits there until somebody answers it, so the queue outlives every process. What a person takes back stays
written down, but no longer counts.
"""
