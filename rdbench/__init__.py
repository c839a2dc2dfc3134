"""rdbench: uncertainty quantification in visual anomaly detection by Reverse Distillation, measured."""

__version__ = "0.1.0"
