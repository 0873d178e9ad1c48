"""The weekly digest: composed from the store, rendered as text and HTML, sent once."""
