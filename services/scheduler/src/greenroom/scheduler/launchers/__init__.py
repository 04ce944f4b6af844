"""What makes runners appear and go: one Protocol (`base`), and a module or more for each place they can run in."""
