"""What people read of runs: tables in five formats, figures, and one HTML page that needs no network."""
