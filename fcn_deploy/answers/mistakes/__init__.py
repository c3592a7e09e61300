"""The usual mistakes between training and export: each is tried, and those that fit are named."""
