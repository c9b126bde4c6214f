"""A run, or several side by side, as one HTML file that needs no other: records in, page out."""
