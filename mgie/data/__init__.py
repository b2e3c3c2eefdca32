"""From what a user downloaded to the batches that a model trains on."""
