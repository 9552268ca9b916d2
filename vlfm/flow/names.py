"""What the functions of each basis are called; imports nothing, so that a page can say it without the mathematics."""

FUNCTIONS = {"cosine": "cosines", "legendre": "Legendre polynomials"}
