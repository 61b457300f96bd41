"""Texts from the scalars of zeroth-order clients: an additive code, decoded by beam search."""
