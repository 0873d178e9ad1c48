"""The sources harvester can read, one file or folder each."""
