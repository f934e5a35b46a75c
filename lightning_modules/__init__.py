"""Networks, their training on the source domain, and the scores of their predictions."""
