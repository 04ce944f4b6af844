"""Usage, prices and budgets over HTTP. The recorder counts, prices and tells; here it is shown and edited."""
