"""What alignment shows in a browser: the composed site, the admin page behind its gate, compare."""
