"""harvester keeps the numbers of backend work: baselines before a change, quantified impact after it."""

__version__ = "0.1.0"
