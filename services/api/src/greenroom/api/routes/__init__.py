"""The routes: what HTTP says, turned into calls of the parts and back."""
