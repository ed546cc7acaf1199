"""The report: one HTML page that answers a grid's questions from its database."""
