"""What a report says of diagnoses: tables, figures, and the part of the page."""
