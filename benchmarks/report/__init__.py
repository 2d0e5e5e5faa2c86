"""One page that shows what all records say: tables, figures, pictures and where it ran."""
