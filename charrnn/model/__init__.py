"""Minibatches to logits: the cells as equations, the network, and the engines that run it."""
