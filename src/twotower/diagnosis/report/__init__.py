"""Report: a diagnosis as one HTML file that needs no network."""

from twotower.diagnosis.report.write import write_report

__all__ = ["write_report"]
