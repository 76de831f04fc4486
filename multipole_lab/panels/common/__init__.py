"""What panels share: their base, controls, samples, style, and what they leave for readers without widgets."""
