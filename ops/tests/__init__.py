"""Tests of the bootstrap that need no platform: `python3 -B -m unittest discover -s ops -t ops`."""
