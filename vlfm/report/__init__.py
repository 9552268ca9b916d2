"""The parts of the report page: its tables, its films, its words, and the template that puts them together."""
