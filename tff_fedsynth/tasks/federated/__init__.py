"""Data of clients, as every task has them."""
