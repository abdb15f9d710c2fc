"""Reading results: tables, figures and reports. Trains nothing."""
