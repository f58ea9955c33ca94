"""Bayesian Prompt Flow Learning: prompt banks, their distributions, the flow, the head and its losses."""
