"""Electrodes: their names, units and places on the head."""
