"""Potluck: one OpenAI-compatible endpoint over every model provider you pay for and every machine you own."""

__version__ = "0.1.0"
