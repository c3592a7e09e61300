"""The usual mistakes between a training environment and an export: each is tried, and those that fit are named."""
