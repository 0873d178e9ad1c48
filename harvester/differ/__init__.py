"""
The differ: from readings before and after a change to a comparison with a verdict.

Pure functions. No store, no clock, no settings; ``compare`` has the public questions, ``result`` their answers.
"""
