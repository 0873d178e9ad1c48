"""A small made-up company served over the real protocols, and the tour through harvester that stands on it."""
