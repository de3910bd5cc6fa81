"""A plume model that learns from analysts' outlines: tiles, network, training, score, gate, inference."""
