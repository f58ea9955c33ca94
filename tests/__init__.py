"""Tests, a package so that `python -m tests.parity.check` finds this one and no other."""
