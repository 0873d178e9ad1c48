"""Impact candidates: proposing, wording and keeping them."""
