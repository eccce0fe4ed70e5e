"""Mutations of the gateway and of agents, planted to find out whether the scenarios catch them."""
