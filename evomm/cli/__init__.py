"""Floor 9: the command line, one thin file per verb.

Verbs import what they run when they run it: torch and transformers take seconds, and ``evomm --help`` must not.
"""
