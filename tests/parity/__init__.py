"""Parity with recordings of the released implementation."""
