"""The tests of Greenroom; the folder a test lies in is its category."""
